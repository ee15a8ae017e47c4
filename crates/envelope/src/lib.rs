//! BEK/KEK envelope encryption: key domains, wrapping, and sealing whole objects.
