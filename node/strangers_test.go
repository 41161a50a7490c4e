package node

import (
	"net/http"
	"testing"
)

func TestStrangersComeFromPublicAddressesOrThroughProxies(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]bool{
		"127.0.0.1:1": false, "[::1]:1": false, "10.1.2.3:1": false, "172.16.0.1:1": false, "192.168.0.1:1": false, "100.64.0.1:1": false, "100.127.255.254:1": false,
		"[fd00::1]:1": false, "[fe80::1%eth0]:1": false, "169.254.1.1:1": false, "[::ffff:10.0.0.1]:1": false,
		"8.8.8.8:1": true, "100.128.0.1:1": true, "172.32.0.1:1": true, "[2001:db8::1]:1": true, "[::ffff:8.8.8.8]:1": true, "": true, "nonsense": true,
	} {
		if got := isStranger(&http.Request{RemoteAddr: from}); got != want {
			t.Errorf("%q is a stranger: %v, want %v", from, got, want)
		}
	}
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if !isStranger(&http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{header: {"x"}}}) {
			t.Errorf("a request with the header %s counts as that of the proxy", header)
		}
	}
}
