// Package stack is the datapath of one Network, assembled from the parts below it.
//
// # The way of a frame
//
//	tap.Device.Run ─► bridge.Port.Input ─┬─► tap.Device.Output          another container
//	(reader goroutine, one per TAP)      └─► gateway.Gateway.Output
//	                                           ├─ TCP  ─► netstack ─► relay ─► host socket
//	                                           ├─ UDP  ─► portfwd (replies of published ports)
//	                                           │          dnsproxy, autoconf, nat.UDP ─► host socket
//	                                           └─ ICMP ─► netstack (our addresses), nat.Ping ─► ping socket
//	host socket ─► nat, portfwd, relay ─► gateway (EmitIP or netstack) ─► bridge ─► tap.Device.Output
//
// Everything up to the host socket happens on the reader's goroutine; at the end of a batch it
// calls Flush, which sends the datagrams that were gathered.
//
// # Ownership
//
// A Network owns its files: TAPs and listening sockets are closed by Detach, Unpublish or Close.
// Close order: publishing, TAP readers, gateway (flows are reset), NAT, name server.
package stack
