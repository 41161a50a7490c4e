package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"

	"github.com/spf13/pflag"

	client "github.com/ganglion-es/ganglion/client/go"
)

// gatewayFlags select gateways of a cluster, and the client that asks one of them.
type gatewayFlags struct {
	URLs  []string
	Token string
}

func (f *gatewayFlags) addTo(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.URLs, "url", []string{"http://127.0.0.1:8080"}, "`URL` of a gateway or load balancer (repeatable: if one does not answer, the next is asked)")
	flags.StringVar(&f.Token, "token", "dev:operator", "token for the gateway; dev:NAME in development mode, also with claims: 'dev:NAME {\"role\":\"cook\"}'")
}

// bases returns the URLs without their final slashes.
func (f gatewayFlags) bases() ([]string, error) {
	if len(f.URLs) == 0 {
		return nil, usagef("--url is empty: write http://HOST:PORT")
	}
	bases := make([]string, len(f.URLs))
	for i, given := range f.URLs {
		base, err := nodeURL(given)
		if err != nil {
			return nil, err
		}
		bases[i] = base
	}
	return bases, nil
}

// connect calls do with a client that connects to a gateway once do calls start: a
// subscription that do opens before is part of the first frame. The context of do
// ends when none of the gateways can be reached: with follow only before the first
// connection, otherwise always. connect then returns the reasons.
func (f gatewayFlags) connect(ctx context.Context, log *slog.Logger, follow bool, do func(ctx context.Context, gateway *client.Client, start func()) error) error {
	bases, err := f.bases()
	if err != nil {
		return err
	}
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	started := make(chan struct{})
	options := client.Options{
		OnError: func(e *client.Error) {
			switch {
			case e.Code == client.CodeUnauthenticated: // the command line has no other token
				stop(e)
			case e.Code == client.CodeNotFound && !(follow && e.Resumed): // after that, an older gateway may not know the name
				stop(e)
			default:
				log.Warn("the gateway reported an error", "url", strings.Join(bases, ","), "err", e.Message)
			}
		},
	}
	for _, base := range bases {
		options.URLs = append(options.URLs, base+socketPath)
	}
	if f.Token != "" {
		options.Token = func(ctx context.Context) (string, error) {
			select {
			case <-started:
				return f.Token, nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
	}
	gateway, err := client.Connect(ctx, options)
	if err != nil {
		return usageError{err}
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := watch(asking, gateway, bases, follow, log); err != nil {
			stop(err)
		}
	})
	defer watching.Wait()
	defer gateway.Close()
	defer stop(nil)
	err = do(asking, gateway, sync.OnceFunc(func() { close(started) }))
	switch {
	case err != nil && ctx.Err() == nil && asking.Err() != nil:
		err = context.Cause(asking)
	case errors.Is(err, client.ErrClosed) && gateway.Err() != nil:
		err = gateway.Err()
	}
	return refusal(err)
}

// socketPath is the path of a gateway's WebSockets.
const socketPath = "/v1/ws"

// watch logs when the connection to a gateway is lost. It returns an error if the
// command must not wait for a gateway: before the first connection, and without
// follow. Then the client has tried each of them since the last connection.
func watch(ctx context.Context, gateway *client.Client, bases []string, follow bool, log *slog.Logger) error {
	seen, logged := false, false // a connection; its loss
	var failures []error         // of the attempts since the last connection
	for status := range gateway.Statuses(ctx) {
		reason := gateway.ConnErr()
		connected := gateway.Log() != "" // now or earlier, even if watch missed that status
		switch {
		case status == client.Live || status == client.CatchingUp:
			seen, logged, failures = true, false, nil
		case reason == nil && !seen: // the first attempt, which may have succeeded since this status
		case status == client.Offline && !(connected && follow):
			failures = append(failures, unreached(reason))
			if len(failures) >= len(bases) {
				return errors.Join(failures...)
			}
		case status != client.Closed && connected && !logged:
			logged = true
			log.Warn("lost the gateway; reconnecting", "url", strings.Join(bases, ","), "err", reason)
		}
	}
	return nil
}

// unreached returns the error of an attempt to connect, with the URL of the gateway.
func unreached(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return noAnswer(strings.TrimSuffix(request.URL, socketPath), err)
	}
	return err
}

// refusal returns an error of the client library in the words of the command line:
// its code, the reason of a rejection, and the message.
func refusal(err error) error {
	var e *client.Error
	if !errors.As(err, &e) {
		return err
	}
	code := string(e.Code)
	if e.Reason != "" {
		code += ": " + e.Reason
	}
	return refusedError{fmt.Errorf("%s: %s", code, e.Message), e}
}

// refusedError is the error that refusal returns. Unwrap finds the client's.
type refusedError struct {
	error
	cause *client.Error
}

func (e refusedError) Unwrap() error { return e.cause }
