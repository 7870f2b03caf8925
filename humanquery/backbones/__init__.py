from dataclasses import dataclass
@dataclass(frozen=True)
class TimmBackbone:
    name: str = "resnet50"
BackboneConfig = TimmBackbone
def build(config): raise NotImplementedError
