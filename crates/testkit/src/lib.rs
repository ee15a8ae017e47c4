//! What the tests of vmkeep share: faulty stores, disk generators, strategies.
