package browser

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/test/harness"
)

//go:embed client.html
var clientPage []byte

// TestPageContinuesOnAnotherGateway runs a page with the built client while its
// gateway is killed, the tab sleeps, its token expires and the network is lost.
// The page and another client send commands throughout. At the end the page must
// have received each event once and in order.
func TestPageContinuesOnAnotherGateway(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, proxies := startTrio(t, secret)

	// The server has the page, the client library and tokens.
	var life atomic.Int64 // lifetime of the next token; 0 refuses tokens
	life.Store(int64(time.Hour))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(clientPage) })
	mux.Handle("GET /client/", http.StripPrefix("/client", http.FileServer(http.Dir("../../client/js/dist"))))
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, _ *http.Request) {
		if life.Load() == 0 {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(sign(t, secret, "ada", time.Duration(life.Load()))))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)

	query := url.Values{}
	for _, p := range proxies {
		query.Add("gateway", "ws://"+p.addr())
	}
	page := server.URL + "/?" + query.Encode()
	p := open(t, page)
	p.until(`seen.status === "live"`)

	// otherAdds adds to the page's counter by another client, at any running node.
	sum, commands := 0, 0
	otherAdds := func(by int) {
		t.Helper()
		sum, commands = sum+by, commands+1
		body := fmt.Sprintf(`{"aggregate":"counter/c","command":"add","data":{"by":%d},"key":"other-%d"}`, by, by)
		harness.Eventually(t, "a command over HTTP", func() error {
			err := errors.New("no node runs")
			for _, n := range nodes {
				if n.Running() {
					if err = post(n.URLs[0], sign(t, secret, "bob", time.Hour), body); err == nil {
						break
					}
				}
			}
			return err
		})
	}
	pageAdds := func(by int) {
		t.Helper()
		sum, commands = sum+by, commands+1
		value[bool](p, fmt.Sprintf(`add(%d), true`, by))
	}
	waitForAll := func(after string) {
		t.Helper()
		p.until(fmt.Sprintf(`seen.status === "live" && seen.sum === %d && seen.open === 0`, sum))
		t.Logf("%s: %s", after, value[string](p, `seen.statuses.splice(0).join(" ")`))
	}
	pageAdds(1)
	otherAdds(2)
	waitForAll("sent and received")

	gateway := value[string](p, `seen.gateway`)
	for i := range proxies {
		if strings.Contains(gateway, proxies[i].addr()) {
			nodes[i].Kill()
		}
	}
	pageAdds(4)
	otherAdds(8)
	p.until(fmt.Sprintf(`seen.gateway !== %q`, gateway))
	waitForAll("its gateway was killed")

	call(p, cdppage.SetWebLifecycleState, cdppage.SetWebLifecycleStateParams{State: cdppage.SetWebLifecycleStateStateFrozen})
	otherAdds(16)
	for _, proxy := range proxies { // a sleeping machine loses its connections
		proxy.cut()
		proxy.mend()
	}
	otherAdds(32)
	call(p, cdppage.SetWebLifecycleState, cdppage.SetWebLifecycleStateParams{State: cdppage.SetWebLifecycleStateStateActive})
	waitForAll("the tab was suspended")

	call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{Offline: true, DownloadThroughput: -1, UploadThroughput: -1})
	for _, proxy := range proxies {
		proxy.cut()
	}
	p.until(`seen.status !== "live"`)
	pageAdds(64)
	otherAdds(128)
	p.screenshot("client-offline")
	for _, proxy := range proxies {
		proxy.mend()
	}
	call(p, network.OverrideNetworkState, network.OverrideNetworkStateParams{DownloadThroughput: -1, UploadThroughput: -1})
	waitForAll("the network was lost")
	checkEvents(p, commands)

	// Another page has a token that expires after 5 s, and gets no new one at first. A
	// token that expires before the page has used it would end the client.
	life.Store(int64(5 * time.Second))
	p = open(t, page)
	waitForAll("another page was opened")
	life.Store(0)
	p.until(`seen.status !== "live"`)
	pageAdds(256)
	otherAdds(512)
	life.Store(int64(time.Hour))
	waitForAll("its token expired")
	checkEvents(p, commands)
	p.screenshot("client")
}

// checkEvents checks that a page has received each event once and in order.
func checkEvents(p *page, commands int) {
	p.t.Helper()
	var want []int
	for v := range commands {
		want = append(want, v+1)
	}
	if got := value[[]int](p, `seen.versions`); !slices.Equal(got, want) {
		p.t.Errorf("the page received the versions %v, want %v", got, want)
	}
	if problems := value[[]string](p, `seen.problems`); len(problems) > 0 {
		p.t.Errorf("the page had problems: %q", problems)
	}
}

// startTrio starts three nodes on one PostgreSQL, each behind a proxy, and with its
// console at an address.
func startTrio(t *testing.T, secret string, consoles ...string) (nodes []*harness.Node, proxies []*proxy) {
	store := postgrestest.URL(t)
	var seeds []string
	for range 3 {
		seeds = append(seeds, harness.FreeAddress(t))
	}
	for i, seed := range seeds {
		args := []string{
			"node", "--name", "n" + strconv.Itoa(i+1), "--store", store,
			"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", seed, "--join", strings.Join(seeds, ","),
			"--auth", "jwt", "--jwt-hmac-file", secret, "--jwt-leeway", "0s", "--origins", "127.0.0.1:*",
		}
		if consoles != nil {
			args = append(args, "--console-listen", consoles[i])
		}
		nodes = append(nodes, harness.Start(t, binary, 1, args...))
	}
	for _, n := range nodes {
		harness.Eventually(t, "three members", func() error {
			s, err := harness.Status(n.URLs[0])
			if err == nil && s.Ring.Owners != 3 {
				err = fmt.Errorf("got %d", s.Ring.Owners)
			}
			return err
		})
		proxies = append(proxies, newProxy(t, strings.TrimPrefix(n.URLs[0], "http://")))
	}
	return nodes, proxies
}

func sign(t *testing.T, secret, client string, life time.Duration) string {
	signed, err := token.Sign(secret, token.Grant{Client: client, ExpiresIn: life})
	if err != nil {
		t.Error(err)
	}
	return signed
}

func post(url, bearer, body string) error {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/commands", strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := harness.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return err
}

// proxy forwards connections to a node until it is cut.
type proxy struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	off   bool
	conns map[net.Conn]bool
	wait  sync.WaitGroup
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l, to: to, conns: map[net.Conn]bool{}}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		from, err := p.l.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("tcp", p.to)
		if err != nil || !p.keep(from, to) {
			from.Close()
			if err == nil {
				to.Close()
			}
			continue
		}
		for _, direction := range [][2]net.Conn{{from, to}, {to, from}} {
			p.wait.Go(func() {
				_, _ = io.Copy(direction[0], direction[1])
				p.drop(direction[0], direction[1])
			})
		}
	}
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if !p.off {
			p.conns[c] = true
		}
	}
	return !p.off
}

func (p *proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.conns, c)
	}
}

// cut closes all connections, and refuses new ones until mend.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
}
