// Package packettest is the kit for tests that speak in packets: builders, in-memory ports, checkers.
//
// A test is a row: a name, the frames that go in, and a Check of what comes out and what was dropped.
//
//	{"the gateway's MAC from a container is dropped",
//		frames(packettest.Frame(gw.MAC, b.MAC, ...)),
//		packettest.All(packettest.NoneOn("b"), packettest.Dropped(drop.SrcMACSpoofed, 1))},
//
// Builders make correct packets: lengths and checksums are filled in, so that a row changes exactly the byte
// it is about. They know the formats on their own account: a mistake in the datapath's codecs is not
// repeated here. Addresses that do not fit each other panic, since that is a mistake in the test.
//
// Only on failure are frames decoded and printed; see Dump.
package packettest
