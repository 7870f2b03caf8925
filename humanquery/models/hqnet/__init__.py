"""HQNet: the unified human query."""


def from_official(state_dict, backbone=None):
    """`HQNet` with the weights of an official state dict; see
    `humanquery.models.hqnet.convert.from_official`."""
    from humanquery.models.hqnet.convert import from_official as convert

    return convert(state_dict, backbone=backbone)
