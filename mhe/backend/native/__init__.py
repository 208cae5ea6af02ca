"""The evaluator on our own ring code: RNS-CKKS with hybrid key switching, every value an array.

encoder         slot values to residues in the evaluation domain
key_switching   digits, products with the key, division by the special primes
evaluator       `NativeBackend`, the interface of mhe.backend.interface
"""

from mhe.backend.native.evaluator import NativeBackend

__all__ = ["NativeBackend"]
