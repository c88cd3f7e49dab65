"""The modes made fast on CUDA."""
