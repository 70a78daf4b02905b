import itertools

import mmcv.ops
import pytest
import torch


def plain_psa_mask(masks, collect, mask_size):
    """Spread the mask around each pixel over the whole map, one weight at a time."""
    batch, _, height, width = masks.shape
    rows, columns = mask_size
    output = masks.new_zeros(batch, height, width, height, width)
    for y, x, row, column in itertools.product(*map(range, (height, width, rows, columns))):
        other_y, other_x = y + row - (rows - 1) // 2, x + column - (columns - 1) // 2
        if 0 <= other_y < height and 0 <= other_x < width:
            weight = masks[:, row * columns + column, y, x]
            if collect:
                output[:, other_y, other_x, y, x] = weight
            else:
                output[:, y, x, other_y, other_x] = weight
    return output.view(batch, height * width, height, width)


@pytest.mark.parametrize('mask_size', [(3, 5), (7, 9), (1, 1), (2, 4)])
@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_follows_its_definition(device, psa_type, mask_size):
    masks = torch.randn(2, mask_size[0] * mask_size[1], 4, 5)
    result = mmcv.ops.PSAMask(psa_type, mask_size)(masks.to(device))
    assert torch.equal(result.cpu(), plain_psa_mask(masks, psa_type == 'collect', mask_size))


@pytest.mark.parametrize('psa_type', ['collect', 'distribute'])
def test_psa_mask_gradients(device, psa_type):
    masks = torch.randn(2, 15, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(mmcv.ops.PSAMask(psa_type, (3, 5)), masks)
