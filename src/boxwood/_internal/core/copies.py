"""Hooks that refer to one network's weights, in copies with other weights."""

from torch import nn

REBUILT = object()
"""Found under its own id in the memo of ``copy.deepcopy`` where other tensors take the place of a
network's own. Hooks that speak of these then return `no_hook` from ``__deepcopy__``."""


def no_hook(*_: object) -> None:
    """Do nothing, in place of a hook, until `drop_hooks_` takes it away.

    Example:
        >>> no_hook(nn.ReLU(), ())
    """


def drop_hooks_(model: nn.Module) -> None:
    """Take `no_hook` out of all modules of a copy.

    Example:
        >>> net = nn.ReLU()
        >>> _ = net.register_forward_pre_hook(no_hook)
        >>> drop_hooks_(net)
        >>> len(net._forward_pre_hooks)
        0
    """
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook is no_hook]:
                del hooks[key]
