package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"

	"github.com/spf13/pflag"

	client "github.com/ganglion-es/ganglion/client/go"
)

// gatewayFlags select a gateway, and the client that asks it.
type gatewayFlags struct{ URL, Token string }

func (f *gatewayFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.URL, "url", "http://127.0.0.1:8080", "`URL` of any gateway of the cluster")
	flags.StringVar(&f.Token, "token", "dev:operator", "token for the gateway; dev:NAME in development mode, also with claims: 'dev:NAME {\"role\":\"cook\"}'")
}

// connect calls do with a client that connects to the gateway once do calls start: a
// subscription that do opens before is part of the first frame. The context of do
// ends when the gateway cannot be reached: with follow only before the first
// connection, otherwise always. connect then returns the reason.
func (f gatewayFlags) connect(ctx context.Context, log *slog.Logger, follow bool, do func(ctx context.Context, gateway *client.Client, start func()) error) error {
	base, err := nodeURL(f.URL)
	if err != nil {
		return err
	}
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	started := make(chan struct{})
	options := client.Options{
		URLs: []string{base + "/v1/ws"},
		OnError: func(e *client.Error) {
			switch {
			case e.Code == client.CodeUnauthenticated: // the command line has no other token
				stop(e)
			case e.Code == client.CodeNotFound && !(follow && e.Resumed): // after that, an older gateway may not know the name
				stop(e)
			default:
				log.Warn("the gateway reported an error", "url", base, "err", e.Message)
			}
		},
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
		if err := watch(asking, gateway, base, follow, log); err != nil {
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

// watch logs when the connection to the gateway is lost. It returns an error if the
// command must not wait for the gateway: before the first connection, and without
// follow.
func watch(ctx context.Context, gateway *client.Client, base string, follow bool, log *slog.Logger) error {
	logged := false
	for status := range gateway.Statuses(ctx) {
		connected := gateway.Log() != "" // now or earlier, even if watch missed that status
		switch {
		case status == client.Live || status == client.CatchingUp:
			logged = false
		case status == client.Offline && !(connected && follow):
			err := gateway.ConnErr()
			if errors.As(err, new(*url.Error)) {
				err = noAnswer(base, err)
			}
			return err
		case status != client.Closed && connected && !logged:
			logged = true
			log.Warn("lost the gateway; reconnecting until it is back", "url", base, "err", gateway.ConnErr())
		}
	}
	return nil
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
