package gateway

import (
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/rs/cors"
)

// preflightAge is how long a browser may cache the answer to a preflight.
const preflightAge = 10 * time.Minute

// shareWithOrigins returns a handler that calls next for pages of the allowed
// origins, and refuses all requests of other pages. CORS headers alone would keep
// a page from reading responses, but not from sending commands.
//
// The gateway does not use credentials that a browser adds by itself, such as
// cookies: a page sends its token in Authorization.
func (g *Gateway) shareWithOrigins(next http.Handler) http.Handler {
	shared := cors.New(cors.Options{
		AllowOriginVaryRequestFunc: func(*http.Request, string) (bool, []string) { return true, nil }, // checked below
		AllowedMethods:             []string{http.MethodGet, http.MethodPost},
		AllowedHeaders:             []string{"Authorization", "Content-Type", "Last-Event-ID"},
		ExposedHeaders:             []string{"Ganglion-Cursor", "Ganglion-Log", "Retry-After"},
		MaxAge:                     int(preflightAge.Seconds()),
	}).Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !g.originAllowed(r) {
			w.Header().Set("Vary", "Origin")
			g.refuseOrigin(w, r)
			return
		}
		shared.ServeHTTP(w, r)
	})
}

// refuseOrigin refuses a page, and names its origin and the request's Host.
// Behind a proxy the Host is often not the one that the browser sent.
func (g *Gateway) refuseOrigin(w http.ResponseWriter, r *http.Request) {
	origin, host := command.Clip(r.Header.Get("Origin")), command.Clip(r.Host)
	g.warnings.origin.Do(func() {
		g.cfg.Logger.Warn("a page was refused: its origin is neither this gateway's host nor listed in Origins (--origins); "+
			"a proxy must pass the client's Host (nginx: proxy_set_header Host $http_host)", "origin", origin, "host", host, "origins", g.cfg.Origins)
	})
	writeFailure(w, "", "", command.Forbidden(
		"pages of %s may not connect: the request's Host is %s, and Origins (--origins) does not list that origin; "+
			"list it there or, if a proxy changed the Host header, configure the proxy to pass the client's (nginx: proxy_set_header Host $http_host)", origin, host))
}

// originAllowed reports whether a request comes from an allowed page. It
// protects users whose browser shows a page of another site. A request without
// an Origin does not come from a browser, or comes from a page of this gateway.
func (g *Gateway) originAllowed(r *http.Request) bool {
	origin := strings.ToLower(r.Header.Get("Origin"))
	if origin == "" {
		return true
	}
	_, host, ok := strings.Cut(origin, "://")
	if ok && host == strings.ToLower(r.Host) {
		return true
	}
	for _, pattern := range g.cfg.Origins {
		target := host
		if strings.Contains(pattern, "://") {
			target = origin
		}
		if match, _ := path.Match(strings.ToLower(pattern), target); ok && match {
			return true
		}
	}
	return false
}
