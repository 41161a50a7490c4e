// Package console serves the web console of a node: its pages, which are files, and
// the data that they show.
//
// The console costs a node nothing while no page is open. While at least one is open,
// the node asks all members for their figures once a second, and keeps the last 15
// minutes of them for charts.
//
// # Requests
//
// All paths are relative, so a proxy may serve the console under any prefix. A page
// sends its token in the header Authorization; the console has no cookies, so no other
// site's page can act for the user. Data of the application reaches the page only as
// JSON, and the page shows it only as text.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A Role is what a user of the console may do.
type Role string

// The roles. Each includes the ones before it.
const (
	// Viewer sees figures and names, and no data of events and states.
	Viewer Role = "viewer"
	// Reader also sees data.
	Reader Role = "reader"
	// Operator may also act.
	Operator Role = "operator"
)

var roles = []Role{Viewer, Reader, Operator}

// includes reports whether a role includes another.
func (r Role) includes(other Role) bool { return slices.Index(roles, r) >= slices.Index(roles, other) }

// User is who sent a request.
type User struct {
	// Name is the client id of the token.
	Name string
	Role Role
	// Expires is when the token expires, zero if it does not.
	Expires time.Time
}

// ErrForbidden is the error of Identify for users without a role.
var ErrForbidden = errors.New("console: the user has no role")

// Config configures a Console. All fields are required.
type Config struct {
	// Node is the id of the serving node, Cluster the name of its cluster.
	Node, Cluster string
	// Identify returns who sent a request. Its errors are shown to the user: one that
	// wraps ErrForbidden as 403, others as 401.
	Identify func(*http.Request) (User, error)
	// State returns the cluster as the node sees it. It must not wait for other nodes.
	State func() State
	// Ring returns the ring as the node sees it.
	Ring func() Ring
	// Vitals asks a member for its figures. It must return when its context ends.
	Vitals func(context.Context, Member) (Vitals, error)
	// Sessions asks a gateway for its sessions, and for at most the given number of
	// those with a text in their id or client id. It must return when its context ends.
	Sessions func(ctx context.Context, m Member, text string, most int) (Sessions, error)
	// Steps asks a member what it did lately for a command, and how far its projections
	// and process managers have come. It must return when its context ends.
	Steps func(context.Context, Member, eventstore.StreamID, string) ([]Step, []Follower, error)
	// Profile asks a member for a profile of its process, which for cpu.pb.gz takes a
	// length of whole seconds. It must return when its context ends.
	Profile func(ctx context.Context, m Member, name string, length time.Duration) ([]byte, error)
	// Log is read for the pages that show events.
	Log Log
	// Size returns the space that the log takes.
	Size func(context.Context) (eventstore.Size, error)
	// Audit records what operators do, in the stream ops/CLUSTER.
	Audit Audit
	// Actions are what operators can do, by name.
	Actions map[string]Action
	// Now dates what operators do.
	Now func() time.Time
	// Owner returns the member that owns an aggregate, "" if none does.
	Owner func(eventstore.StreamID) string
	// Folds makes states of events.
	Folds Folds
	// Views are what the pages of the read side show, by name.
	Views map[string]View
	// NoActions is why there are no actions and no record of them, "" if there are.
	NoActions string
	// Pages are the files of the console.
	Pages fs.FS
	// Logger gets warnings.
	Logger *slog.Logger
}

// Console serves the console of one node. It is safe for concurrent use.
type Console struct {
	cfg    Config
	watch  *watch
	tails  *tails
	reader *reader
	kept   keeper
	acting chan struct{} // one element for each action in progress
	views  map[string]*view
}

// New returns a Console. Call Run.
func New(cfg Config) *Console {
	c := &Console{
		cfg: cfg, watch: newWatch(cfg), tails: newTails(), reader: newReader(cfg.Log), views: map[string]*view{}, acting: make(chan struct{}, maxActing),
	}
	for name, read := range cfg.Views {
		c.views[name] = &view{read: read}
	}
	c.views["health"] = &view{read: c.viewHealth}
	return c
}

// Run gathers figures while pages are open, until ctx ends.
func (c *Console) Run(ctx context.Context) error { return c.watch.run(ctx) }

// contentSecurityPolicy lets a page load files of the console and nothing else.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler returns a handler for the console's paths, without a prefix.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", newPages(c.cfg.Pages))
	mux.HandleFunc("GET /api/me", c.as(Viewer, c.serveMe))
	mux.HandleFunc("GET /api/status", c.as(Viewer, c.serveStatus))
	mux.HandleFunc("GET /api/ring", c.as(Viewer, c.serveRing))
	mux.HandleFunc("GET /api/log", c.as(Viewer, c.serveLog))
	mux.HandleFunc("GET /api/events", c.as(Viewer, c.serveEvents))
	mux.HandleFunc("GET /api/streams/{type}/{id}", c.as(Viewer, c.serveStream))
	mux.HandleFunc("GET /api/sessions", c.as(Viewer, c.serveSessions))
	mux.HandleFunc("GET /api/journey", c.as(Viewer, c.serveJourney))
	mux.HandleFunc("GET /api/profiles/{member}/{name}", c.as(Operator, c.serveProfile))
	mux.HandleFunc("GET /api/audit", c.as(Viewer, c.serveAudit))
	mux.HandleFunc("POST /api/actions/{name}", c.as(Operator, c.serveAction))
	mux.HandleFunc("GET /api/views/{view}", c.as(Viewer, c.serveView))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "the console has no "+r.Method+" "+r.URL.Path)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", contentSecurityPolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

// as returns a handler for users whose role includes the given one.
func (c *Console) as(least Role, serve func(http.ResponseWriter, *http.Request, User)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		user, err := c.cfg.Identify(r)
		switch {
		case errors.Is(err, ErrForbidden):
			refuse(w, http.StatusForbidden, err.Error())
		case err != nil:
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, err.Error())
		case !user.Role.includes(least):
			refuse(w, http.StatusForbidden, "this needs the role "+string(least)+", and you have the role "+string(user.Role))
		default:
			serve(w, r, user)
		}
	}
}

// refuse answers with an error that the page shows.
func refuse(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message}) // the page may have gone
}

// serveMe tells a page who its user is, and what the user can do.
func (c *Console) serveMe(w http.ResponseWriter, _ *http.Request, user User) {
	actions := []string{}
	if user.Role.includes(Operator) {
		for name := range c.cfg.Actions {
			actions = append(actions, name)
		}
		slices.Sort(actions)
	}
	answer(w, map[string]any{"name": user.Name, "role": user.Role, "node": c.cfg.Node, "cluster": c.cfg.Cluster, "actions": actions})
}
