"""The stages of a release, a file each: ``check(ctx)`` costs no GPU time, ``run(ctx)`` makes one artifact."""
