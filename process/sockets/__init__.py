"""The seam between the shells and the network: `Socket`, on aiohttp and in memory.

Both daemons speak through `socket.Socket` and nothing else, so a device and a cloud can be joined
without a network:

    device, cloud = memory_pair(Steady(loop, 125_000.0, 0.02), Steady(loop, 250_000.0, 0.02))

One end is what a device's `Dial` yields, the other what `DeviceSocket` is made with. Rate, delay,
loss and TCP's ways are those of the two `memory.Way`s; write another class of these four methods
for another network. With `process.virtual_loop.run_virtual` around it no second passes.
"""
