"""Polynomials modulo X^N + 1 and a product of primes: the arithmetic under every protocol.

In the order in which they build on each other:

    modular    words: modular products, compiled loops over rows of residues
    primes     moduli that have the roots of unity the transform needs
    vectors    eight residues at a time, in 64-bit words or in float64 with fused multiply-add
    parallel   pieces of one operation, in turn or on several threads
    products   sums of many products in one pass over memory
    matrix     matrices of symmetric rows (encoded plaintexts) times ciphertexts
    residues   integers as residues modulo several primes
    ntt        the number-theoretic transform of one limb (vector_ntt: on vectors)
    symmetric  the same for what is equal at x and 1/x, at half the work
    ring       polynomials: transforms, products, automorphisms
    basis      exact change of the primes behind a small integer (vector_basis: on vectors)
    division   by some of the moduli, rounded
    gaussian   tables of discrete Gaussians, wide ones from narrow ones
    sampling   streams of random words, and the samples drawn from them
    galois     which automorphism rotates or conjugates the slots
"""
