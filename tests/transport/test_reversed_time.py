"""A network of the other convention gives the same samples once it is turned around."""

import torch

from models import SiT
from transport import Guidance, Sampler, create_transport
from transport.reversed_time import ReversedTime


def test_a_turned_network_samples_the_gaussian_it_knows():
    """Data N(3, 0.5^2). With s = 1 - t, x_s = (1 - s) x_1 + s x_0 and v_s = E[x_0 - x_1 | x_s]."""

    def backwards(x, s, y):
        s = s.reshape(-1, 1)
        mean, variance = 3 * (1 - s), (0.5 * (1 - s)) ** 2 + s**2
        return -3 + (s - 0.25 * (1 - s)) / variance * (x - mean)

    noise = torch.linspace(-2, 2, 9).reshape(-1, 1)
    sample = Sampler(create_transport()).sample_ode(sampling_method="rk4", num_steps=200)
    data = sample(noise, ReversedTime(backwards), y=None)[-1]
    torch.testing.assert_close(data, 3 + 0.5 * noise, atol=1e-4, rtol=0)


def test_guidance_goes_through():
    torch.manual_seed(0)
    model = SiT(input_size=4, patch_size=2, hidden_size=16, depth=2, num_heads=2, num_classes=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    x, t, y = torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    turned = Guidance(ReversedTime(model), 2.0)(x, t, y)
    torch.testing.assert_close(turned, -Guidance(model, 2.0)(x, 1 - t, y))
