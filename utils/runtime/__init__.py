"""What a process runs on and with: device, processes, signals, memory, random streams."""
