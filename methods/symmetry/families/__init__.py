"""Families of networks whose permutation groups are known from modules and names. One builder each."""
