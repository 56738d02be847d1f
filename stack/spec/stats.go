package spec

// Stats is what the datapath says about a Network when it is asked.
type Stats struct {
	// Drops counts what was dropped, by the name of its drop.Reason; zeros are left out.
	Drops map[string]uint64 `json:"drops,omitempty"`
	// TCPFlows, UDPFlows and PingFlows are alive now.
	TCPFlows  int `json:"tcp_flows"`
	UDPFlows  int `json:"udp_flows"`
	PingFlows int `json:"ping_flows"`
	// Endpoints and Ports are how many are attached and published.
	Endpoints int `json:"endpoints"`
	Ports     int `json:"ports"`
}
