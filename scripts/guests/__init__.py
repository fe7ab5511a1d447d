"""A guest of QEMU whose disk lies on a throttled image: Debian's cloud kernel and busybox.

The kernel and busybox come from Debian's packages, which are downloaded and unpacked but not
installed; nothing else is in the guest. Its shell is driven over the serial console.
"""
