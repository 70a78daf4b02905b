"""The public weights that have a short name, as data.

Addresses are those that the projects themselves publish: the model zoos of the release and of
SAM 2, and the repositories of timm and transformers on the Hugging Face hub. No project publishes
sizes or hashes beside its files; what a server says of a file is checked at the download.
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
    """

    name: str
    url: str
    arch: str
    image_size: int
    trained_on: str
    licence: str


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
            url = f'{sam2}/{date}/{version}_hiera_{size}.pt'
            name = f'{version}://{size}'
            entries.append(Entry(name, url, f'sam2_{size}', 1024, _SAM2, APACHE))
    for arch in sizes:
        for tag, data in (('mae', _MAE), ('mae_in1k_ft_in1k', _SUPERVISED)):
            repository = f'hiera_{arch}_224.{tag}'
            entries.append(_timm(repository, arch, 224, data, NON_COMMERCIAL))
    for tag, data in (
        ('sbb2_e200_in12k', 'ImageNet-12K, labels'),
        ('sbb2_pd_e200_in12k', 'ImageNet-12K, labels, patch dropout'),
        ('sbb2_e200_in12k_ft_in1k', 'ImageNet-12K, then ImageNet-1K, labels'),
        ('sbb2_pd_e200_in12k_ft_in1k', 'the same, patch dropout'),
    ):
        entries.append(_timm(f'hiera_small_abswin_256.{tag}', 'small_abswin', 256, data, APACHE))
    for size in ('tiny', 'small', 'base_plus', 'large'):
        for version in ('', '_2pt1'):
            side = 1024 if size == 'large' else 896
            repository = f'sam2_hiera_{size}.fb_r{side}{version}'
            entries.append(_timm(repository, f'sam2_{size}', 1024, _SAM2, APACHE))
    for arch in sizes:
        repository = f'facebook/hiera-{arch.replace("_", "-")}-224-hf'
        url = f'hf://{repository}'
        entries.append(Entry(url, url, arch, 224, _MAE, NON_COMMERCIAL))
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
