_base_ = './mae_hiera-t_8xb512-400e_in1k.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.2))
