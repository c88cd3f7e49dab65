"""What maintainers run: pages, figures, fits and checks of a card. Uses everything; nothing uses it."""
