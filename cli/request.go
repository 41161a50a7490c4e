package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/node"
)

// urlFlag selects the node to ask.
type urlFlag struct{ URL string }

func (f *urlFlag) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.URL, "url", "http://127.0.0.1:8080", "`URL` of any node of the cluster")
}

func (f urlFlag) cluster(ctx context.Context, query string) (node.ClusterStatus, error) {
	var status node.ClusterStatus
	resp, err := get(ctx, f.URL, "/v1/cluster"+query)
	if err != nil {
		return status, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return status, fmt.Errorf("%s answered %s: %s", f.URL, resp.Status, firstLine(resp.Body))
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		if late := net.Error(nil); errors.As(err, &late) {
			return status, noAnswer(f.URL, err)
		}
		return status, fmt.Errorf("%s does not answer as a Ganglion node: %w", f.URL, err)
	}
	return status, nil
}

const (
	// requestTimeout bounds a request to a node.
	requestTimeout = 10 * time.Second
	// dialTimeout bounds the time to connect for it.
	dialTimeout = 5 * time.Second
)

// httpClient is the client for requests to nodes.
var httpClient = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	return &http.Client{Transport: transport, Timeout: requestTimeout}
}()

// get requests a path from a node.
func get(ctx context.Context, node, page string) (*http.Response, error) {
	base, err := nodeURL(node)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+page, nil)
	if err != nil {
		return nil, err
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, noAnswer(base, err)
	}
	return resp, nil
}

// nodeURL checks the value of --url and removes a final slash.
func nodeURL(given string) (string, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", usagef("--url %q is not a URL of a node: write http://HOST:PORT", given)
	}
	return strings.TrimSuffix(given, "/"), nil
}

// noAnswer returns the error for an unreachable node, without the names of the
// request and of the library that failed. A node that accepts connections but does
// not answer has its own text.
func noAnswer(base string, err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var connection *net.OpError
	dialing := errors.As(err, &connection) && connection.Op == "dial"
	if late := net.Error(nil); errors.As(err, &late) && late.Timeout() && !dialing {
		return fmt.Errorf("the node at %s accepts connections but does not answer in time: check whether its process is frozen, paused or short of CPU time", base)
	}
	return fmt.Errorf("no node answers at %s: %w; check that a node runs and that the address is right", base, err)
}

// printJSON prints indented JSON on standard output.
func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false) // the output is not a web page
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func firstLine(r io.Reader) string {
	line, _ := bufio.NewReader(io.LimitReader(r, 1<<10)).ReadString('\n')
	return strings.TrimSpace(line)
}
