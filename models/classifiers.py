"""The classifiers whose class activation maps are taken: what --model of train.py and infer.py chooses from.

A *classifier* is a TrunkNet (models/network.py), made from (trunk, num_classes, pool), with
    class_maps(image)   B x 3 x H x W -> B x C x h x w: evidence for each class, of both signs; what infer.py stores
    forward(image)      -> (those maps, logits B x C, maps B x C x h x w that the triplet embeds)
"""

from models.aeft import AEFTNet

MODELS = {"aeft_gpp": AEFTNet}
