package node

import (
	"net/http"
	"net/netip"
)

// sharedAddresses are private too: those of carriers (RFC 6598), which clouds give to
// containers.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

// unlessStranger refuses requests of strangers, for what operators and their programs
// read on the port for clients. Users of the console may read it from everywhere.
func (n *node) unlessStranger(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isStranger(r) {
			if _, err := n.identifyUser(r); n.trustsUsers() || err != nil {
				writeText(w, http.StatusForbidden, r.URL.Path+" is for operators: ask the node itself from its private network, without a proxy, or send a token with the claim "+roleClaim)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// isStranger reports whether a request comes from a public address, or through a proxy,
// which passes on the requests of strangers.
func isStranger(r *http.Request) bool {
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(header) != "" {
			return true
		}
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return true
	}
	a := from.Addr().Unmap()
	return !a.IsLoopback() && !a.IsPrivate() && !a.IsLinkLocalUnicast() && !sharedAddresses.Contains(a)
}
