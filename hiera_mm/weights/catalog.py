"""The public weights that have a short name, as data.

Addresses are those that the projects themselves publish: the model zoos of the release and of
SAM 2, and the repositories of timm and transformers on the Hugging Face hub. Nobody publishes sizes
or hashes of the release's files; those of SAM 2's are what the projects that pin them agree on.
"""

from __future__ import annotations

from dataclasses import dataclass

NON_COMMERCIAL = 'CC BY-NC 4.0'
APACHE = 'Apache-2.0'

_MAE = 'ImageNet-1K, MAE only'
_SUPERVISED = 'ImageNet-1K, MAE, then labels'
_SAM2 = 'SA-1B and SA-V, promptable segmentation'


@dataclass(frozen=True)
class Entry:
    """A published file.

    Attributes:
        name: Its short name here.
        url: Where it is, ``https://`` or ``hf://repository[/file]``.
        arch: The architecture.
        image_size: Side in pixels of the images it was trained on.
        trained_on: Data, and how.
        licence: Licence of the weights.
        size: Bytes of the file, if known.
        sha256: Its hash, if known.
    """

    name: str
    url: str
    arch: str
    image_size: int
    trained_on: str
    licence: str
    size: int | None = None
    sha256: str | None = None


_SAM2_FILES = {
    'sam2_hiera_tiny': (
        155_906_050, '65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125'),
    'sam2_hiera_small': (
        184_309_650, '95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3'),
    'sam2_hiera_base_plus': (
        323_493_298, 'd0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071'),
    'sam2_hiera_large': (
        897_952_466, '7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b'),
    'sam2.1_hiera_tiny': (
        156_008_466, '7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69'),
    'sam2.1_hiera_small': (
        184_416_285, '6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38'),
    'sam2.1_hiera_base_plus': (
        323_606_802, 'a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5'),
    'sam2.1_hiera_large': (
        898_083_611, '2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318'),
}  # fmt: skip
# Names that the pattern of the others would give, but that were not found published.
_UNPUBLISHED = (
    'hf://facebook/hiera-small-224-mae-hf',
    'hf://facebook/hiera-base-plus-224-mae-hf',
    'hf://facebook/hiera-huge-224-in1k-hf',
)


def _entries() -> list[Entry]:
    entries = []
    release = 'https://dl.fbaipublicfiles.com/hiera'
    sizes = ('tiny', 'small', 'base', 'base_plus', 'large', 'huge')
    for arch in sizes:
        for name, file, data in (
            ('mae_in1k', f'mae_hiera_{arch}_224.pth', _MAE),
            ('mae_in1k_ft_in1k', f'hiera_{arch}_224.pth', _SUPERVISED),
        ):
            url = f'{release}/{file}'
            entries.append(Entry(f'release://{arch}/{name}', url, arch, 224, data, NON_COMMERCIAL))
    sam2 = 'https://dl.fbaipublicfiles.com/segment_anything_2'
    for version, date in (('sam2', '072824'), ('sam2.1', '092824')):
        for size in ('tiny', 'small', 'base_plus', 'large'):
            file = f'{version}_hiera_{size}'
            name, url = f'{version}://{size}', f'{sam2}/{date}/{file}.pt'
            known = _SAM2_FILES[file]
            entries.append(Entry(name, url, f'sam2_{size}', 1024, _SAM2, APACHE, *known))
    for arch in sizes:
        for tag, data in (('mae', _MAE), ('mae_in1k_ft_in1k', _SUPERVISED)):
            repository = f'hiera_{arch}_224.{tag}'
            entries.append(_timm(repository, arch, 224, data, NON_COMMERCIAL))
    for tag, data in (
        ('sbb2_e200_in12k', 'ImageNet-12K, labels'),
        ('sbb2_pd_e200_in12k', 'ImageNet-12K, labels'),
        ('sbb2_e200_in12k_ft_in1k', 'ImageNet-12K, then ImageNet-1K, labels'),
        ('sbb2_pd_e200_in12k_ft_in1k', 'ImageNet-12K, then ImageNet-1K, labels'),
    ):
        entries.append(_timm(f'hiera_small_abswin_256.{tag}', 'small_abswin', 256, data, APACHE))
    for size in ('tiny', 'small', 'base_plus', 'large'):
        for version in ('', '_2pt1'):
            side = 1024 if size == 'large' else 896
            repository = f'sam2_hiera_{size}.fb_r{side}{version}'
            entries.append(_timm(repository, f'sam2_{size}', 1024, _SAM2, APACHE))
    for tag, data in (('', _MAE), ('-mae', _MAE), ('-in1k', _SUPERVISED)):
        for arch in sizes:
            url = f'hf://facebook/hiera-{arch.replace("_", "-")}-224{tag}-hf'
            if url not in _UNPUBLISHED:
                entries.append(Entry(url, url, arch, 224, data, NON_COMMERCIAL))
    for version in ('sam2', 'sam2.1'):
        for size in ('tiny', 'small', 'base_plus', 'large'):
            repository = f'facebook/{version}-hiera-{size.replace("_", "-")}'
            url = f'hf://{repository}/{version}_hiera_{size}.pt'
            entries.append(Entry(url, url, f'sam2_{size}', 1024, _SAM2, APACHE))
    return entries


def _timm(repository: str, arch: str, image_size: int, data: str, licence: str) -> Entry:
    url = f'hf://timm/{repository}'
    return Entry(f'timm://{repository}', url, arch, image_size, data, licence)


CATALOG: dict[str, Entry] = {entry.name: entry for entry in _entries()}
"""Published weights by their short names."""


def entry_of(source: str) -> Entry | None:
    """Return what is known of a source: a short name, its address, or a file of its repository."""
    source = source.partition('#')[0]
    for entry in CATALOG.values():
        if source in (entry.name, entry.url) or source.startswith(f'{entry.url}/'):
            return entry
    return None
