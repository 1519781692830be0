"""Training: point-in-time tables -> tensors -> a model and its honest figures.

Enter: Arrow tables with a label. Leave: metrics beside a baseline's, and the model's weights as plain arrays.
Promise: no row objects on the way, the later fifth of time is never trained on, and equal seeds give equal
losses on one device.
"""
