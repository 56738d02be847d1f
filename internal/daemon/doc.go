// Package daemon is `usernet daemon`: one process for each user that has named networks.
//
// # Theory of operation
//
//  1. The lock file (daemon.pid) decides who is the daemon. A second one waits half a second for a first that is
//     just ending, and then gives up (LU-05). Who has the lock may remove the sockets a dead one has left.
//  2. What stands behind the sockets is assembled: store, datapath, Controller, Engine, join server. Only then
//     are there sockets, so who can connect is answered.
//  3. Readiness is told: to systemd, and to whoever started this daemon on demand and waits at a pipe (Ensure).
//  4. SIGHUP reads the settings again. SIGTERM, SIGINT and the idle timeout end it: no more connections, a goodbye
//     to the sandboxes, then the parts in the reverse order of their making.
//
// # Sandboxes outlive the daemon
//
// Whatever way it ends, sandboxes keep their TAPs and published sockets and rejoin the next daemon. Its datapath goes on
// for a minute, if there are sandboxes, and the next daemon adopts it (datapath.sock, mode 0600; internal/datapath). When it was killed
// they start one themselves; when it said goodbye, because somebody told it to end, they do not: they wait until
// there is one. With socket activation systemd may start it for them; `systemctl --user stop usernet.socket
// usernet.service` ends both. The idle timeout never strikes while a sandbox is connected.
//
// # Sockets
//
// In the runtime directory, which is the registry's and checked as that is (LU-04), mode 0600: usernet.sock has the API,
// join.sock the sandboxes. From systemd they come as a stream socket and one with sequential packets. Both ask the
// kernel who connects and serve this user alone (LU-01).
//
// # Settings
//
// ~/.config/usernet/daemon.json has keys of Docker's daemon.json, and there is a flag for each. A key set in both
// places, and a key that Docker does not know, is an error with Docker's text. These do something:
//
//	debug, log-level, log-format           what is logged, and how
//	dns, dns-opts, dns-search              name resolution of sandboxes that say nothing themselves
//	resolv-conf                            the host's file, instead of /etc/resolv.conf
//	default-address-pools                  where subnets come from
//	default-network-opts                   options of new networks, by driver
//	bip, bip6, fixed-cidr, fixed-cidr-v6, default-gateway, default-gateway-v6, ipv6, mtu, icc, ip-masq
//	                                       the network bridge
//	ip                                     what ports are published on where nothing else is said
//	host-gateway-ip, host-gateway-ips      what host-gateway stands for
//	hosts                                  further unix sockets for the API; tcp:// is refused, since nobody
//	                                       could tell who connects
//
// SIGHUP applies debug, log-level and, for sandboxes that join from then on, dns, dns-opts and dns-search. The log
// says which others have changed and wait for a restart. The datapath keeps the log level it was started with.
//
// These are accepted, each with a warning that says why it does nothing: iptables, ip6tables, firewall-backend,
// bridge-accept-fwmark, ip-forward, ip-forward-no-drop, allow-direct-routing, userland-proxy,
// userland-proxy-path, bridge, live-restore, min-api-version, network-control-plane-mtu,
// swarm-default-advertise-addr, network-diagnostic-port, raw-logs. Those of cluster stores, which Docker has removed,
// and all that is not about networks are unknown.
//
// # Protection
//
// The process cannot be traced or read by other programs of the user and leaves no core (LU-15); files it makes are the
// user's alone; started on demand, it holds nothing of the command that needed it but its log (LU-14).
package daemon
