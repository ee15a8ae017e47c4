#!/bin/sh
# Puts the database at rest: its log is written back and emptied, and nothing is written until the post-script.
touch /run/quiesce
while [ ! -e /run/quiet ]; do usleep 20000; done
echo "$VMKEEP_PHASE: $VMKEEP_VM is at rest"
