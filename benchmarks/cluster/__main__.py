import sys

from benchmarks.cluster import main

sys.exit(main(sys.argv[1:]))
