import torch, torch.nn.functional as F
from humanquery.core.boxes import giou
def giou_loss(boxes, true): return 1 - giou(boxes, true)
def l1(found, true): return (found - true).abs()
def sample_points(logits, points):
    return F.grid_sample(logits[:, None], points[:, :, None] * 2 - 1, align_corners=False)[:, 0, :, 0]
def uncertain_points(logits, num_points, candidates, random):
    with torch.no_grad():
        seen = sample_points(logits, candidates).abs()
        k = int(num_points * 0.75)
        idx = seen.topk(k, 1, largest=False).indices
        return torch.cat([candidates.gather(1, idx[..., None].expand(-1, -1, 2)), random], 1)
def dice(logits, targets):
    p = logits.sigmoid()
    return 1 - (2 * (p * targets).sum(-1) + 1) / (p.sum(-1) + targets.sum(-1) + 1)
def mask_bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)
def pairwise_dice_cost(logits, targets):
    p = logits.sigmoid()
    return 1 - (2 * p @ targets.T + 1) / (p.sum(-1)[:, None] + targets.sum(-1)[None] + 1)
def pairwise_bce_cost(logits, targets):
    pos, neg = F.softplus(-logits), F.softplus(logits)
    return (pos @ targets.T + neg @ (1 - targets).T) / logits.shape[1]
