import torch, torch.nn.functional as F
def oks_loss(oks): return -oks.clamp(min=1e-6).log()
def expected_age(logits, ages): return (logits.softmax(-1) * ages).sum(-1)
def age_loss(logits, low, high, ages, *, mean=0.02, variance=0.1, ce=1.0):
    p = logits.softmax(-1)
    m = (p * ages).sum(-1)
    var = (p * (ages - m[:, None]) ** 2).sum(-1)
    y = (low - ages[0]).round().long().clamp(0, len(ages) - 1)
    return mean * (m - low) ** 2 + variance * var + ce * F.cross_entropy(logits, y, reduction="none")
def _radius(h, w, o=0.9):
    b1 = h + w; c1 = w * h * (1 - o) / (1 + o); r1 = (b1 + (b1**2 - 4 * c1).sqrt()) / 2
    b2 = 2 * (h + w); c2 = (1 - o) * w * h; r2 = (b2 + (b2**2 - 16 * c2).sqrt()) / 2
    b3 = -2 * o * (h + w); c3 = (o - 1) * w * h; r3 = (b3 + (b3**2 - 4 * 4 * o * c3).sqrt()) / 2
    return torch.minimum(torch.minimum(r1, r2), r3)
def heatmap_targets(boxes, keypoints, counted, size, stride=8):
    n, k = counted.shape
    h, w = size
    out = torch.zeros(k, h, w)
    sides = (boxes[:, 2:] - boxes[:, :2]) / stride
    r = _radius(sides[:, 1], sides[:, 0]).floor().clamp(0, 3)
    cells = (keypoints / stride).floor().long()
    ys, xs = torch.arange(h), torch.arange(w)
    for i in range(n):
        sigma = (2 * r[i] + 1) / 6
        for j in range(k):
            if counted[i, j]:
                x, y = cells[i, j]
                dx, dy = (xs - x).float(), (ys - y).float()
                g = torch.exp(-(dx[None] ** 2 + dy[:, None] ** 2) / (2 * sigma**2))
                g = torch.where((dx.abs()[None] <= r[i]) & (dy.abs()[:, None] <= r[i]), g, 0.0)
                out[j] = torch.maximum(out[j], g)
    return out
def heatmap_loss(logits, targets, valid):
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    pos = targets == 1
    neg = ~pos & valid[:, None]
    lp = torch.where(pos, p.log() * (1 - p) ** 2, 0.0).sum()
    ln = torch.where(neg, (1 - p).log() * p**2 * (1 - targets) ** 4, 0.0).sum()
    return -(lp + ln) / pos.sum().clamp(min=1)
