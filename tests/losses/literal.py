"""The paper's formulas entry by entry and bin by bin, in float64; deliberately slow."""

import math

import torch


class Literal:
    """GHM-C and GHM-R with running counts."""

    def __init__(self, bins, momentum, last_edge, bias_correct=False, max_weight=math.inf):
        self.edges = [i / bins for i in range(bins)] + [last_edge]
        self.momentum, self.bias_correct, self.max_weight = momentum, bias_correct, max_weight
        self.acc_sum, self.calls = [0.0] * bins, [0] * bins

    def weights(self, g, valid, total):
        weights = torch.zeros_like(g)
        num_filled = 0
        for i in range(len(self.acc_sum)):
            inside = (g >= self.edges[i]) & (g < self.edges[i + 1]) & valid
            count = inside.sum().item()
            if count == 0:
                continue
            num_filled += 1
            self.calls[i] += 1
            self.acc_sum[i] = self.momentum * self.acc_sum[i] + (1 - self.momentum) * count
            density = self.acc_sum[i]
            if self.bias_correct:
                density /= 1 - self.momentum ** self.calls[i]
            weights[inside] = total / density
        return (weights / max(num_filled, 1)).clamp(max=self.max_weight)

    def ghmc(self, pred, target, weight):
        """Return loss and gradient."""
        p = pred.sigmoid()
        total = max((weight > 0).sum().item(), 1)
        weights = self.weights((p - target).abs(), weight > 0, total)
        entropy = -(target * p.log() + (1 - target) * (1 - p).log())
        return (entropy * weights).sum() / total, (p - target) * weights / total

    def ghmr(self, pred, target, weight, mu):
        """Return loss and gradient."""
        d = pred - target
        root = (d**2 + mu**2).sqrt()
        total = max(weight.sum().item(), 1)
        weights = self.weights((d / root).abs(), weight > 0, total)
        return ((root - mu) * weights).sum() / total, d / root * weights / total
