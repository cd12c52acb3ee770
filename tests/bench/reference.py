"""Formulations as they are published, written plainly: what tests compare with and `make bench` measures against."""

import torch


def pair_indices(height, width, radius):
    """Cell numbers of all pairs: (anchors n, partners offsets * n). A map too small uses radius (side - 1) // 2."""
    radius = min(radius, (min(height, width) - 1) // 2)
    reach = max(radius - 1, 0)
    cells = torch.arange(height * width).view(height, width)
    rows, columns = height - reach, width - 2 * reach
    steps = [(0, dx) for dx in range(1, radius)]
    for dy in range(1, radius):
        for dx in range(-radius + 1, radius):
            if dx * dx + dy * dy < radius * radius:
                steps.append((dy, dx))
    anchors = cells[:rows, reach : reach + columns].flatten()
    partners = [cells[dy : dy + rows, reach + dx : reach + dx + columns].flatten() for dy, dx in steps]
    return anchors, torch.cat(partners) if partners else cells.new_zeros(0)


def gathered_pair_affinity(features, radius=5):
    """AffinityNet's pairs by gathering them: features B x C x h x w -> B x offsets x anchors."""
    batch, channels, height, width = features.shape
    anchors, partners = (indices.to(features.device) for indices in pair_indices(height, width, radius))
    features = features.reshape(batch, channels, -1)
    one = torch.index_select(features, 2, anchors).unsqueeze(2)
    other = torch.index_select(features, 2, partners).view(batch, channels, len(partners) // len(anchors), len(anchors))
    return torch.exp(-torch.mean(torch.abs(other - one), dim=1))


def dense_affinity(pairs, height, width, radius=5):
    """Affinities of one image, offsets x anchors -> dense N x N, symmetric with unit diagonal."""
    anchors, partners = pair_indices(height, width, radius)
    cells = torch.arange(height * width)
    start = anchors.repeat(len(pairs))
    indices = torch.stack([torch.cat([start, cells, partners]), torch.cat([partners, cells, start])])
    values = torch.cat([pairs.flatten(), torch.ones(len(cells)), pairs.flatten()])
    return torch.sparse_coo_tensor(indices, values, (len(cells), len(cells))).to_dense()


def dense_walk(affinity, scores, beta=8, log_steps=6):
    """scores C x N times T^(2^log_steps), the power built by squaring; affinity dense N x N."""
    transition = affinity**beta
    transition = transition / transition.sum(dim=0, keepdim=True)
    for _ in range(log_steps):
        transition = transition @ transition
    return scores @ transition
