"""The optimizer and the lookahead of the speed records in PyTorch, from their description, for parity tests."""

import torch


def orthogonalize(matrix, steps):
    """Newton-Schulz iterations with the quintic a x + b x^3 + c x^5 on the singular values, which start at most 1."""
    x = matrix / (torch.linalg.matrix_norm(matrix) + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x


class Muon(torch.optim.Optimizer):
    """For kernels `[out, in, height, width]`, each as the matrix `[out, in * height * width]`."""

    def __init__(self, kernels, lr, momentum, nesterov, steps):
        super().__init__(kernels, {'lr': lr, 'momentum': momentum, 'nesterov': nesterov, 'steps': steps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for kernel in group['params']:
                buffer = self.state[kernel].setdefault('buffer', torch.zeros_like(kernel))
                buffer.mul_(group['momentum']).add_(kernel.grad)
                direction = kernel.grad + group['momentum'] * buffer if group['nesterov'] else buffer
                update = orthogonalize(direction.flatten(1), group['steps']).reshape(kernel.shape)
                kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
                kernel.sub_(group['lr'] * update)


class Lookahead:
    """Slow copies of all floating-point tensors of a module, statistics included."""

    def __init__(self, module, every, decay, total_steps):
        self.every, self.decay, self.total_steps = every, decay, total_steps
        self.tensors = [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
        self.slow = [tensor.clone() for tensor in self.tensors]

    def step(self, number):
        """After step `number`, from 1."""
        if number % self.every == 0:
            keep = self.decay * (number / self.total_steps) ** 3
            self.slow = [keep * slow + (1 - keep) * fast for slow, fast in zip(self.slow, self.tensors, strict=True)]
        if number % self.every == 0 or number == self.total_steps:
            for fast, slow in zip(self.tensors, self.slow, strict=True):
                fast.copy_(slow)
