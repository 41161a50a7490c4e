package gateway

import (
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/rs/cors"
)

// preflightAge is how long a browser may remember what is allowed.
const preflightAge = 10 * time.Minute

// shareWithOrigins lets pages of the allowed origins use what next serves, and
// refuses others, whatever they ask for: not to be shown the answer would keep
// a page from reading, and not from sending commands.
//
// Credentials that a browser adds by itself, such as cookies, are neither
// asked for nor looked at: a page sends its token in Authorization.
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

// refuseOrigin names the two values that differ. Behind a proxy the Host is
// often not the one that the browser sent.
func (g *Gateway) refuseOrigin(w http.ResponseWriter, r *http.Request) {
	origin, host := clip(r.Header.Get("Origin")), clip(r.Host)
	g.warnings.origin.Do(func() {
		g.cfg.Logger.Warn("a page was refused: its origin is neither this gateway's host nor among --origins; "+
			"a proxy must pass the client's Host (nginx: proxy_set_header Host $http_host)", "origin", origin, "host", host, "origins", g.cfg.Origins)
	})
	writeFailure(w, "", "", &command.Failure{
		Code: command.Forbidden,
		Message: "pages of " + origin + " may not connect: this gateway was asked for as " + host + ", and --origins does not list that page; " +
			"list it there, or if a proxy changed the Host header, let it pass the client's (nginx: proxy_set_header Host $http_host)",
	})
}

// originAllowed protects people whose browser is led here by someone else's
// page. Requests without an Origin come from no browser, or from a page of the
// gateway's own.
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
