"""The base that the networks share: a trunk (models/trunks.py), what of it stays frozen, groups for the optimiser."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from models.checkpoint import load_weights, released_names, released_state


class TrunkNet(nn.Module):
    """Base of the networks: a trunk, `self.trunk`, and layers of their own that start from random values."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk
        self.frozen = False

    def start(self, weights, dropout=True, checkpoint_activations=False):
        """Begin a training from `weights`: a file, `timm` for those that timm gave the trunk, or `none`; returns self.

        From pretrained weights the network is frozen as `freeze` says. dropout: whether the trunk's stays.
        """
        self.trunk.checkpoint_activations = checkpoint_activations
        for module in self.modules() if not dropout else ():
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        if weights not in ("timm", "none"):
            load_weights(self, weights, part="trunk")
        return self if weights == "none" else self.freeze()

    def synchronise_batchnorm(self):
        """BatchNorm over the batches of all processes (SyncBatchNorm); names and shapes of the state stay."""
        self.trunk.synchronise_batchnorm()

    def freeze(self):
        """Fine-tuning from pretrained weights: the trunk's stem and each BatchNorm of the trunk stay as they are.

        BatchNorm keeps its running statistics (eval mode also while training) and its affine parameters.
        """
        self.frozen = True
        for parameter in self.trunk.stem_parameters():
            parameter.requires_grad_(False)
        for module in self.trunk.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            for module in self.trunk.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def param_groups(self, lr, weight_decay, scratch_lr_mult):
        """Trainable parameters as optimiser groups: decay on weights, none on biases; what is not trunk apart."""
        groups = {}
        for name, param in self.named_parameters():
            if not param.requires_grad:
                continue
            part = "trunk" if name.startswith("trunk.") else "scratch"
            kind = "bias" if name.endswith("bias") else "weight"
            groups.setdefault((part, kind), []).append(param)
        return [
            {
                "name": f"{part} {kind}",
                "params": params,
                "lr": lr * (scratch_lr_mult if part == "scratch" else 1.0),
                "weight_decay": weight_decay if kind == "weight" else 0.0,
            }
            for (part, kind), params in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ]

    def released_state(self):
        """The state under the names that files have (models/checkpoint.py)."""
        return released_state(self)

    def load_released_state(self, state):
        """Take what `released_state` gave; ValueError or RuntimeError where it is another network's."""
        names = released_names(self)
        if names.keys() != state.keys():
            raise ValueError(f"{min(names.keys() ^ state.keys())} is not in both the file and the network")
        self.load_state_dict({names[name]: tensor for name, tensor in state.items()})
