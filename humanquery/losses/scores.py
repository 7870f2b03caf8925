import torch, torch.nn.functional as F
def focal(logits, positive, alpha=0.25, gamma=2.0):
    t = positive.to(logits.dtype)
    p = logits.sigmoid()
    pt = (1 - p) * t + p * (1 - t)
    weight = (alpha * t + (1 - alpha) * (1 - t)) * pt.pow(gamma)
    return F.binary_cross_entropy_with_logits(logits, t, reduction="none") * weight
def focal_cost(logits, alpha=0.25, gamma=2.0, eps=1e-12):
    p = logits.sigmoid()
    return -(p + eps).log() * alpha * (1 - p) ** gamma + (1 - p + eps).log() * (1 - alpha) * p**gamma
def binary(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
