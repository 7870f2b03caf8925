import torch, torch.nn.functional as F
def deformable_attention(value, shapes, locations, weights):
    b, s, heads, d = value.shape
    q = locations.shape[1]
    out = value.new_zeros(b * heads, d, q)
    start = 0
    for level, (h, w) in enumerate(shapes):
        plane = value[:, start:start + h * w].permute(0, 2, 3, 1).reshape(b * heads, d, h, w)
        start += h * w
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        seen = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        out = out + (seen * weights[:, :, :, level].transpose(1, 2).reshape(b * heads, 1, q, -1)).sum(-1)
    return out.reshape(b, heads * d, q).transpose(1, 2)
