"""The shared networks as people have them: thirty small modules of three inputs, and what torch.autograd says of them."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from jacobians.network.activations import LogCosh


def module(forward, **parts):
    """A module of some parts with a forward."""

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            for name in list(parts):
                part = parts.pop(name)  # the class lives until it is collected
                if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                    self.register_buffer(name, part)
                else:
                    setattr(self, name, part)

    Made.forward = forward
    return Made()


def layers(*sizes):
    return [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def residual():
    a, f, g, b = layers(3, 6, 6, 6, 2)
    return module(lambda self, x: self.b(torch.tanh(self.a(x)) + self.g(torch.sin(self.f(torch.tanh(self.a(x)))))), a=a, f=f, g=g, b=b)


class Block(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.f, self.skip, self.act = nn.Linear(into, out), nn.Identity() if into == out else nn.Linear(into, out, bias=False), nn.SiLU()

    def forward(self, h):
        return self.act(self.f(h) + self.skip(h))


def dense():
    a, b, c = nn.Linear(3, 4), nn.Linear(7, 5), nn.Linear(12, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        g = torch.tanh(self.b(torch.cat([x, h], -1)))
        return self.c(torch.cat((x, h, g), dim=1))

    return module(forward, a=a, b=b, c=c)


def gated():
    u, v, a, b = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):  # the improved MLP of Wang, Teng & Perdikaris
        U, V, H = torch.tanh(self.u(x)), torch.tanh(self.v(x)), torch.tanh(self.a(x))
        return self.b((1 - H) * U + H * V)

    return module(forward, u=u, v=v, a=a, b=b)


def convex():
    x0, x1, x2, z1 = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(3, 1), nn.Linear(5, 5, bias=False)

    def forward(self, x):
        z = F.softplus(self.x0(x))
        z = F.softplus(self.z1(z) + self.x1(x))
        return F.linear(z, self.last) + self.x2(x)

    return module(forward, x0=x0, x1=x1, x2=x2, z1=z1, last=nn.Parameter(draw(1, 5).abs()))


def fourier():
    net = nn.Sequential(*[layer for a in layers(8, 6, 2) for layer in (a, nn.Tanh())][:-1])

    def forward(self, x):
        z = 2 * torch.pi * x @ self.B
        return self.net(torch.cat([torch.sin(z), torch.cos(z)], dim=-1))

    return module(forward, net=net, B=draw(3, 4))


def normed(norm):
    return lambda: nn.Sequential(nn.Linear(3, 6), norm(6), nn.Tanh(), nn.Linear(6, 5), nn.SiLU(), norm(5), nn.Linear(5, 2))


def scaled_norm():
    net = normed(nn.LayerNorm)()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.LayerNorm):
                layer.weight.copy_(draw(len(layer.weight)))
                layer.bias.copy_(draw(len(layer.bias)))
    return net


def batch_norm_last():
    return normalised(nn.Linear(3, 5), nn.Tanh(), nn.BatchNorm1d(5))


def normalised(*layers):
    net = nn.Sequential(*layers).double()
    for _ in range(3):
        net(draw(9, 3) * 2 + 1)
    return net.eval()


def centred():
    net = nn.Sequential(*layers(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return module(
        lambda self, x: self.net((x - self.mean) / self.std) * self.factor + 0.5,
        net=net,
        mean=draw(3),
        std=draw(3).abs() + 1,
        factor=draw(2),
    )


def tanh_twice():
    net = nn.Sequential(*layers(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return module(lambda self, x: -torch.square(self.net(2 * (x - 0.5))) - x[:, :2] * 3.0, net=net)


STEPS = {
    "a residual": residual,
    "residual blocks": lambda: nn.Sequential(Block(3, 5), Block(5, 5), nn.Linear(5, 2)),
    "dense skips": dense,
    "gates": gated,
    "an input-convex network": convex,
    "Fourier features": fourier,
    "LayerNorm": normed(nn.LayerNorm),
    "LayerNorm with its parameters": scaled_norm,
    "LayerNorm without them": normed(lambda n: nn.LayerNorm(n, elementwise_affine=False)),
    "RMSNorm": normed(nn.RMSNorm),
    "PReLU": lambda: nn.Sequential(nn.Linear(3, 5), nn.PReLU(), nn.Linear(5, 4), nn.PReLU(4, init=-0.3), nn.Linear(4, 2)),
    "a batch norm last": batch_norm_last,
    "an affine end and buffers": centred,
    "squares, signs and a slice": tanh_twice,
    "a factor before tanh": lambda: module(lambda self, x: self.b(torch.tanh(3 * self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "log cosh in a skip": lambda: module(lambda self, x: x + self.b(self.a(x).cosh().log()), a=nn.Linear(3, 4), b=nn.Linear(4, 3)),
    "activations one behind the other": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Softplus(), nn.Linear(4, 2)),
}

CHAINS = {
    "SIREN": lambda: module(lambda self, x: self.b(torch.sin(30 * self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "factors behind activations": lambda: module(
        lambda self, x: self.b(torch.tanh(self.a(x)) * 3 / 2) * -0.5, a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    ),
    "a factor between layers": lambda: module(lambda self, x: self.b(-self.a(x).mul(2.0)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "a slice of the outputs": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x)))[:, 1:3], a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
    "one output": lambda: module(lambda self, x: torch.tanh(self.b(self.a(x).sigmoid()))[..., -1], a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
    "a squeezed output": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x))).squeeze(-1), a=nn.Linear(3, 4), b=nn.Linear(4, 1)),
    "a reshaped output": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x))).view(-1, 2, 3), a=nn.Linear(3, 4), b=nn.Linear(4, 6)),
    "functions of the table": lambda: module(
        lambda self, x: F.hardswish(self.b(F.logsigmoid(self.a(F.mish(self.b(F.selu(self.a(x)))))))), a=nn.Linear(3, 4), b=nn.Linear(4, 3)
    ),
    "log cosh as functions": lambda: module(lambda self, x: self.b(torch.log(torch.cosh(self.a(x)))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "modules of the table": lambda: nn.Sequential(
        *[
            layer
            for act in (nn.Mish(), nn.SELU(), nn.CELU(0.7), LogCosh(), nn.LogSigmoid(), nn.Hardswish())
            for layer in (nn.Linear(3, 3), act)
        ]
    ),
    "a batch norm behind a linear layer": lambda: normalised(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)),
    "a weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 5)), nn.Tanh(), nn.Linear(5, 2)),
    "an orthogonal weight": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), parametrizations.orthogonal(nn.Linear(5, 5)), nn.Tanh(), nn.Linear(5, 2)
    ),
    "a spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)).eval(),
}


def built(make, dtype=torch.float64):
    torch.default_generator.manual_seed(0)  # `torch.manual_seed` writes down a stack for each device that is not there
    return make().to(dtype)


class Plain(nn.Module):
    """What torch itself differentiates wrongly (LayerNorm, three times) or in single precision (CELU, Hardswish), in plain operations."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        if isinstance(self.layer, nn.Hardswish):
            return h * (h + 3).clamp(0, 6) / 6
        if isinstance(self.layer, nn.CELU):
            return torch.where(h > 0, h, self.layer.alpha * torch.expm1(h.clamp_max(0) / self.layer.alpha))
        c = h - h.mean(-1, keepdim=True)
        n = c * torch.rsqrt(c.square().mean(-1, keepdim=True) + self.layer.eps)
        return n if self.layer.weight is None else n * self.layer.weight + self.layer.bias


def truth(net, x):
    """x, y, J with a graph, and H, of a batch in float64, by reverse over reverse."""
    x = x.detach().double().requires_grad_()
    if isinstance(net, nn.Sequential):
        net = nn.Sequential(*[Plain(layer) if isinstance(layer, nn.LayerNorm | nn.CELU | nn.Hardswish) else layer for layer in net])
    y = net(x).reshape(len(x), -1)
    J = torch.stack([torch.autograd.grad(y[:, p].sum(), x, create_graph=True)[0] for p in range(y.shape[1])], 1)

    def second(g):
        if not g.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(g, x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]

    H = torch.stack([torch.stack([second(J[:, p, d].sum()) for d in range(J.shape[2])], 1) for p in range(J.shape[1])], 1)
    return x, y, J, H
