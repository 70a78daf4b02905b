"""The public weights that have a short name: one row of a table for each.

Addresses are those that the projects themselves publish: the model zoos of the release and of
SAM 2, and the repositories of timm and transformers on the Hugging Face hub. Nobody publishes sizes
or hashes of the release's files; those of SAM 2's are what the projects that pin them agree on.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..network.variants import name_of_weights

NON_COMMERCIAL = 'CC BY-NC 4.0'
APACHE = 'Apache-2.0'


@dataclass(frozen=True)
class Training:
    """What weights were trained on, and what follows from it.

    Attributes:
        image_size: Side in pixels of the images.
        trained_on: Data, and how.
        licence: Licence of the weights.
    """

    image_size: int
    trained_on: str
    licence: str


@dataclass(frozen=True)
class Entry:
    """A published file.

    Attributes:
        name: Its short name here.
        arch: The architecture.
        training: What it was trained on.
        address: Where it is, where the name does not say it.
        size: Bytes of the file, if known.
        sha256: Its hash, if known.
    """

    name: str
    arch: str
    training: Training
    address: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def url(self) -> str:
        """Where the file is, ``https://`` or ``hf://repository[/file]``."""
        return self.address or self.name.replace('timm://', 'hf://timm/')

    def fits(self, arch: str) -> bool:
        """Whether it holds weights for an architecture, with the windows of its own or others."""
        return self.arch == name_of_weights(arch)


MAE = Training(224, 'ImageNet-1K, MAE only', NON_COMMERCIAL)
LABELS = Training(224, 'ImageNet-1K, MAE, then labels', NON_COMMERCIAL)
SAM2 = Training(1024, 'SA-1B and SA-V, promptable segmentation', APACHE)
IN12K = Training(256, 'ImageNet-12K, labels', APACHE)
IN12K_IN1K = Training(256, 'ImageNet-12K, then ImageNet-1K, labels', APACHE)
RELEASE = 'https://dl.fbaipublicfiles.com/hiera'
SAM2_URL = 'https://dl.fbaipublicfiles.com/segment_anything_2'

# fmt: off
_FILES = (
    ('release://tiny/mae_in1k', 'tiny', MAE, f'{RELEASE}/mae_hiera_tiny_224.pth'),
    ('release://tiny/mae_in1k_ft_in1k', 'tiny', LABELS, f'{RELEASE}/hiera_tiny_224.pth'),
    ('release://small/mae_in1k', 'small', MAE, f'{RELEASE}/mae_hiera_small_224.pth'),
    ('release://small/mae_in1k_ft_in1k', 'small', LABELS, f'{RELEASE}/hiera_small_224.pth'),
    ('release://base/mae_in1k', 'base', MAE, f'{RELEASE}/mae_hiera_base_224.pth'),
    ('release://base/mae_in1k_ft_in1k', 'base', LABELS, f'{RELEASE}/hiera_base_224.pth'),
    ('release://base_plus/mae_in1k', 'base_plus', MAE, f'{RELEASE}/mae_hiera_base_plus_224.pth'),
    ('release://base_plus/mae_in1k_ft_in1k', 'base_plus', LABELS,
     f'{RELEASE}/hiera_base_plus_224.pth'),
    ('release://large/mae_in1k', 'large', MAE, f'{RELEASE}/mae_hiera_large_224.pth'),
    ('release://large/mae_in1k_ft_in1k', 'large', LABELS, f'{RELEASE}/hiera_large_224.pth'),
    ('release://huge/mae_in1k', 'huge', MAE, f'{RELEASE}/mae_hiera_huge_224.pth'),
    ('release://huge/mae_in1k_ft_in1k', 'huge', LABELS, f'{RELEASE}/hiera_huge_224.pth'),
    ('sam2://tiny', 'sam2_tiny', SAM2, f'{SAM2_URL}/072824/sam2_hiera_tiny.pt',
     155_906_050, '65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125'),
    ('sam2://small', 'sam2_small', SAM2, f'{SAM2_URL}/072824/sam2_hiera_small.pt',
     184_309_650, '95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3'),
    ('sam2://base_plus', 'sam2_base_plus', SAM2, f'{SAM2_URL}/072824/sam2_hiera_base_plus.pt',
     323_493_298, 'd0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071'),
    ('sam2://large', 'sam2_large', SAM2, f'{SAM2_URL}/072824/sam2_hiera_large.pt',
     897_952_466, '7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b'),
    ('sam2.1://tiny', 'sam2_tiny', SAM2, f'{SAM2_URL}/092824/sam2.1_hiera_tiny.pt',
     156_008_466, '7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69'),
    ('sam2.1://small', 'sam2_small', SAM2, f'{SAM2_URL}/092824/sam2.1_hiera_small.pt',
     184_416_285, '6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38'),
    ('sam2.1://base_plus', 'sam2_base_plus', SAM2, f'{SAM2_URL}/092824/sam2.1_hiera_base_plus.pt',
     323_606_802, 'a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5'),
    ('sam2.1://large', 'sam2_large', SAM2, f'{SAM2_URL}/092824/sam2.1_hiera_large.pt',
     898_083_611, '2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318'),
    ('timm://hiera_tiny_224.mae', 'tiny', MAE),
    ('timm://hiera_tiny_224.mae_in1k_ft_in1k', 'tiny', LABELS),
    ('timm://hiera_small_224.mae', 'small', MAE),
    ('timm://hiera_small_224.mae_in1k_ft_in1k', 'small', LABELS),
    ('timm://hiera_base_224.mae', 'base', MAE),
    ('timm://hiera_base_224.mae_in1k_ft_in1k', 'base', LABELS),
    ('timm://hiera_base_plus_224.mae', 'base_plus', MAE),
    ('timm://hiera_base_plus_224.mae_in1k_ft_in1k', 'base_plus', LABELS),
    ('timm://hiera_large_224.mae', 'large', MAE),
    ('timm://hiera_large_224.mae_in1k_ft_in1k', 'large', LABELS),
    ('timm://hiera_huge_224.mae', 'huge', MAE),
    ('timm://hiera_huge_224.mae_in1k_ft_in1k', 'huge', LABELS),
    ('timm://hiera_small_abswin_256.sbb2_e200_in12k', 'small_abswin', IN12K),
    ('timm://hiera_small_abswin_256.sbb2_pd_e200_in12k', 'small_abswin', IN12K),
    ('timm://hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k', 'small_abswin', IN12K_IN1K),
    ('timm://hiera_small_abswin_256.sbb2_pd_e200_in12k_ft_in1k', 'small_abswin', IN12K_IN1K),
    ('timm://sam2_hiera_tiny.fb_r896', 'sam2_tiny', SAM2),
    ('timm://sam2_hiera_tiny.fb_r896_2pt1', 'sam2_tiny', SAM2),
    ('timm://sam2_hiera_small.fb_r896', 'sam2_small', SAM2),
    ('timm://sam2_hiera_small.fb_r896_2pt1', 'sam2_small', SAM2),
    ('timm://sam2_hiera_base_plus.fb_r896', 'sam2_base_plus', SAM2),
    ('timm://sam2_hiera_base_plus.fb_r896_2pt1', 'sam2_base_plus', SAM2),
    ('timm://sam2_hiera_large.fb_r1024', 'sam2_large', SAM2),
    ('timm://sam2_hiera_large.fb_r1024_2pt1', 'sam2_large', SAM2),
    ('hf://facebook/hiera-tiny-224-hf', 'tiny', MAE),
    ('hf://facebook/hiera-small-224-hf', 'small', MAE),
    ('hf://facebook/hiera-base-224-hf', 'base', MAE),
    ('hf://facebook/hiera-base-plus-224-hf', 'base_plus', MAE),
    ('hf://facebook/hiera-large-224-hf', 'large', MAE),
    ('hf://facebook/hiera-huge-224-hf', 'huge', MAE),
    ('hf://facebook/hiera-tiny-224-mae-hf', 'tiny', MAE),
    ('hf://facebook/hiera-base-224-mae-hf', 'base', MAE),
    ('hf://facebook/hiera-large-224-mae-hf', 'large', MAE),
    ('hf://facebook/hiera-huge-224-mae-hf', 'huge', MAE),
    ('hf://facebook/hiera-tiny-224-in1k-hf', 'tiny', LABELS),
    ('hf://facebook/hiera-small-224-in1k-hf', 'small', LABELS),
    ('hf://facebook/hiera-base-224-in1k-hf', 'base', LABELS),
    ('hf://facebook/hiera-base-plus-224-in1k-hf', 'base_plus', LABELS),
    ('hf://facebook/hiera-large-224-in1k-hf', 'large', LABELS),
    ('hf://facebook/sam2-hiera-tiny/sam2_hiera_tiny.pt', 'sam2_tiny', SAM2),
    ('hf://facebook/sam2-hiera-small/sam2_hiera_small.pt', 'sam2_small', SAM2),
    ('hf://facebook/sam2-hiera-base-plus/sam2_hiera_base_plus.pt', 'sam2_base_plus', SAM2),
    ('hf://facebook/sam2-hiera-large/sam2_hiera_large.pt', 'sam2_large', SAM2),
    ('hf://facebook/sam2.1-hiera-tiny/sam2.1_hiera_tiny.pt', 'sam2_tiny', SAM2),
    ('hf://facebook/sam2.1-hiera-small/sam2.1_hiera_small.pt', 'sam2_small', SAM2),
    ('hf://facebook/sam2.1-hiera-base-plus/sam2.1_hiera_base_plus.pt', 'sam2_base_plus', SAM2),
    ('hf://facebook/sam2.1-hiera-large/sam2.1_hiera_large.pt', 'sam2_large', SAM2),
)
# fmt: on

CATALOG: dict[str, Entry] = {row[0]: Entry(*row) for row in _FILES}
"""Published weights by their short names."""


def entry_of(source: str) -> Entry | None:
    """Return what is known of a source: a short name, its address, or a file of its repository."""
    source = source.partition('#')[0]
    for entry in CATALOG.values():
        if source in (entry.name, entry.url) or source.startswith(f'{entry.url}/'):
            return entry
    return None
