"""Eight descents of one network from eight starts, on two threads. First: python setup.py build_ext --inplace."""

import numpy as np
from descents import descents

from backprop import Network

net = Network([1, 16, 16, 1], activations="tanh", rng=0)
x = np.linspace(-2, 2, 200)[:, None]
y = np.sin(3 * x)
thetas = np.array([Network(net.sizes, activations="tanh", rng=seed).params for seed in range(8)])
losses = np.empty(8)
descents(net, thetas, x, y, losses, 0.05, 2000, 2)
for k, loss in enumerate(losses):
    print(f"start {k}: loss {loss:.6f}")
best = int(losses.argmin())
print(f"the best is start {best}: loss {net.loss(x, y, params=thetas[best]):.6f} after its last step")
