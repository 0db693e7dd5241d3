"""One part of gpu_kit.py, in a process of its own: python gpu_parts.py PART WORK OUT SECONDS

PART: smoke, speed, train, long or order. WORK holds the unpacked store; OUT takes PART.json, written after
each finding, and the encoders that come back."""
import sys, time
START = time.time() # imports take seconds, too
from gpu_checks import Part, smoke, speed
from gpu_order import order
from gpu_training import long, train_variants

if __name__ == '__main__':
    name, work, out, seconds = sys.argv[1:]
    part = Part(name, work, out, START + float(seconds) - time.time())
    dict(smoke=smoke, speed=speed, train=train_variants, long=long, order=order)[name](part)
    part.put(seconds=float(seconds) - part.left, whole=True)
    sys.exit(bool(part.found['errors']))
