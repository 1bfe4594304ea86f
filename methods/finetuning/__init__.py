"""Fine-tuning a base network, whatever becomes of it: what the methods that start from `map` share.

Which parameters take part, how normalisation runs, the step with its precision and its skipped batches, the loop, and
layers whose weights differ from example to example. What the parameters become is the business of each method.
"""
