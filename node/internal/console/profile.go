package console

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"time"
)

const (
	// profileTime is the length of a processor profile unless the request has another
	// one, and longestProfile the greatest.
	profileTime, longestProfile = 10 * time.Second, time.Minute
	// profileWithin is how long a member may take besides that length.
	profileWithin = 15 * time.Second
)

// profileNames are the files that operators can get.
var profileNames = []string{"cpu.pb.gz", "heap.pb.gz", "goroutines.txt"}

// serveProfile answers with a profile of a member's process, as a file. ?seconds= is
// the length of cpu.pb.gz.
func (c *Console) serveProfile(w http.ResponseWriter, r *http.Request, user User) {
	id, name := r.PathValue("member"), r.PathValue("name")
	members := c.cfg.State().Members
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	seconds, isGiven, err := number(r.URL.Query(), "seconds")
	length := profileTime
	switch {
	case i < 0:
		refuse(w, http.StatusNotFound, fmt.Sprintf("%.80q is not a member of the cluster", id))
		return
	case !slices.Contains(profileNames, name):
		refuse(w, http.StatusNotFound, fmt.Sprintf("there is no profile %.40q: %v are known", name, profileNames))
		return
	case err != nil || isGiven && (seconds < 1 || seconds > uint64(longestProfile.Seconds())):
		refuse(w, http.StatusBadRequest, fmt.Sprintf("seconds is %.20q: write a number from 1 to %g", r.URL.Query().Get("seconds"), longestProfile.Seconds()))
		return
	case isGiven:
		length = time.Duration(seconds) * time.Second
	}
	if !c.beginAction(w) {
		return
	}
	defer c.endAction()
	c.cfg.Logger.Info("an operator takes a profile of a member", "member", id, "profile", name, "client", user.Name)
	ctx, cancel := context.WithTimeout(r.Context(), length+profileWithin)
	defer cancel()
	data, err := c.cfg.Profile(ctx, members[i], name, length)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, id+": "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": id + "-" + name}))
	_, _ = w.Write(data) // the page may have gone
}
