#!/bin/sh
rm -f /run/quiesce /run/quiet
echo "$VMKEEP_PHASE: $VMKEEP_VM goes on"
