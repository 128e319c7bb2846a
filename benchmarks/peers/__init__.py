"""The same network and algorithm as others write it, and the arithmetic alone.

Every peer has `step(x, y)`, which trains on one batch and returns its loss and accuracy, and
`weights`, what it trains, in the order and layout that Keras has them in.
"""
