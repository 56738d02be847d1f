// Package tap is the container's end of the wire: it makes a TAP device in a network namespace and
// moves frames between the device and the switch.
//
// # Theory of operation
//
// Create runs in the sandbox, as its first process, and needs CAP_NET_ADMIN there. It makes the
// device with water, which can do everything but IFF_VNET_HDR: that flag makes the kernel put a
// virtio-net header before each frame, and with it goes a promise of the reader (TUNSETOFFLOAD) to
// digest frames of 64 KiB and partial checksums. So water makes the device persistent and lets go
// of it, a descriptor of our own attaches with the flag (the kernel allows a change at attach), and
// persistence ends: from then on the device lives exactly as long as the descriptor. That
// descriptor goes by SCM_RIGHTS, with its Info, to the datapath, which needs no privilege to use it.
//
// What the kernel refuses is left out step by step: first USO (before Linux 6.2), then all
// offloads, then the header itself. Without the header (plain mode) the Device cuts and completes
// frames in software, so its users see no difference but speed. In the other direction a kernel
// that did not promise USO does not take it either, so such frames are cut as well.
//
// # Reading
//
// One read is one frame, and there is no call that reads several. Run waits in the poller, reads
// until the device is empty or a batch of 64 is full, and hands on what it has. Each read scatters
// into [virtio header][Ethernet header][block], so the packet begins at the first byte of the block
// and a receiver can take the block over instead of copying (l2.Buf). A frame of at most smallFrame
// bytes is copied into a slot of a batch instead, which does not show in the 0.9 to 1.0 µs of such a
// read and lets 64 small frames be handled together; a larger one is handed on at once, while it is
// in the processor's cache.
//
// # Writing
//
// Output gathers [virtio header, Ethernet header][packet...] into one writev. A write to a TAP runs
// the container's receive path up to the socket in the caller's context and does not queue in
// between, so there is nothing to wait for: TUNSETSNDBUF stays at its default, which never refuses
// (a limit would only count packets that the container holds in its own queues, and drop ours). Any
// number of goroutines may be in Output; they share no lock.
//
// In the other direction the queue is the device's ring, tx_queue_len frames, which the kernel
// fills without back-pressure: what does not fit is lost in the container. netns.Configure sets it
// to 1000; see there for the reason.
//
// # States
//
//	        write: EIO                      read or write: EBADFD
//	Up ───────────────────▶ Down      Up, Down ───────────────────▶ Gone
//	   ◀───────────────────
//	        write succeeds
//
// Down: the container set its interface down. Nobody tells us; the next write does. Reading goes
// on waiting in the poller, at no cost. Gone: the container deleted the interface; Run returns, and
// only a new device brings the port back. Each change is logged once.
//
// The namespace does not end under a device: a descriptor of a TAP keeps its network namespace alive,
// even when all processes in it have ended. So whoever holds one watches the processes, not the
// TAP, to know that a container is over, and closes it then.
package tap
