package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
	"github.com/ganglion-es/ganglion/node"
)

// storeFlags say which log.
type storeFlags struct{ Store, StorePasswordFile string }

func (f *storeFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.Store, "store", "", "The log: a postgres:// `URL`, or the folder of an embedded one.")
	flags.StringVar(&f.StorePasswordFile, "store-password-file", "", "`FILE` with the database's password, to keep it out of the URL.")
	require(flags, "store")
}

func (f storeFlags) password() (string, error) {
	if f.StorePasswordFile == "" {
		return "", nil
	}
	raw, err := readSecret(f.StorePasswordFile)
	return strings.TrimSpace(string(raw)), err
}

// urlFlag says which node to ask.
type urlFlag struct{ URL string }

func (f *urlFlag) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.URL, "url", "http://127.0.0.1:8080", "`URL` of any node of the cluster.")
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
		return status, fmt.Errorf("%s does not answer like a Ganglion node: %w", f.URL, err)
	}
	return status, nil
}

const (
	// pageWithin is how long a node may take to answer with a page.
	pageWithin = 10 * time.Second
	// dialWithin is how long a connection to it may take.
	dialWithin = 5 * time.Second
)

// pages asks nodes for pages.
var pages = func() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialWithin}).DialContext
	return &http.Client{Transport: transport, Timeout: pageWithin}
}()

// get asks a node for one of its pages.
func get(ctx context.Context, node, page string) (*http.Response, error) {
	base, err := nodeURL(node)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+page, nil)
	if err != nil {
		return nil, err
	}
	resp, err := pages.Do(req)
	if err != nil {
		return nil, noAnswer(base, err)
	}
	return resp, nil
}

// nodeURL checks what --url says.
func nodeURL(given string) (string, error) {
	u, err := url.Parse(given)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", usagef("--url %q is no URL of a node: write http://HOST:PORT", given)
	}
	return strings.TrimSuffix(given, "/"), nil
}

// noAnswer says that a node is out of reach. It leaves out which request of
// which library failed.
func noAnswer(base string, err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var connection *net.OpError
	dialing := errors.As(err, &connection) && connection.Op == "dial"
	if late := net.Error(nil); errors.As(err, &late) && late.Timeout() && !dialing {
		return fmt.Errorf("the node at %s takes connections and does not answer in time: its process is frozen or paused, or has no free processor", base)
	}
	return fmt.Errorf("no node answers at %s: %w", base, err)
}

// printJSON is what --json prints.
func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false) // this is no web page
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func firstLine(r io.Reader) string {
	line, _ := bufio.NewReader(io.LimitReader(r, 1<<10)).ReadString('\n')
	return strings.TrimSpace(line)
}

type membersCmd struct {
	urlFlag
	JSON bool
}

func membersCommand() *cobra.Command {
	var c membersCmd
	cmd := &cobra.Command{
		Use:   "members",
		Short: "Show the members of a cluster.",
		Example: `  ganglion members --url http://n1:8080
  ganglion members --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.urlFlag.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "Print the node's /v1/cluster as it is.")
	return cmd
}

func (c membersCmd) run(ctx context.Context) error {
	status, err := c.cluster(ctx, "")
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(status)
	}
	return printMembers(os.Stdout, status)
}

func printMembers(out io.Writer, status node.ClusterStatus) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "MEMBER\tSTATE\tROLES\tPARTITIONS\tSESSIONS\tLINK\tCLOCK\tAGE\tVERSION\tPEER\tHTTP\tRING")
	for _, m := range status.Members {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			m.ID, m.State, strings.Join(m.Roles, ","), m.Partitions, sessionCount(m), linkState(status, m.ID), clockState(m),
			memberAge(m), cmp.Or(m.Version, "-"), m.Peer, m.HTTP, m.Ring)
	}
	for _, l := range status.Lost {
		fmt.Fprintf(w, "%s\tlost\t%s\t-\t-\t-\t-\t-\t%s\t%s\t%s\t-\n", l.ID, strings.Join(l.Roles, ","), cmp.Or(l.Version, "-"), l.Peer, l.HTTP)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range status.Members {
		switch {
		case m.Problem == "":
		case m.State == node.NotReady:
			fmt.Fprintf(out, "%s is not ready: %s\n", m.ID, m.Problem)
		default:
			fmt.Fprintf(out, "%s: %s\n", m.ID, m.Problem)
		}
	}
	for _, l := range status.Lost {
		fmt.Fprintf(out, "%s is lost: %s last heard it %s ago, and it did not take leave\n", l.ID, status.Node, age(l.LostSeconds))
	}
	return nil
}

// memberAge is unknown to an asked node that is too old to tell versions.
func memberAge(m node.MemberStatus) string {
	if m.AgeSeconds == 0 && m.Version == "" {
		return "-"
	}
	return age(m.AgeSeconds)
}

// age is a time in its two largest units.
func age(seconds int64) string {
	units := []struct {
		name string
		size int64
	}{{"d", 24 * 3600}, {"h", 3600}, {"m", 60}, {"s", 1}}
	for i, u := range units {
		switch {
		case seconds < u.size:
		case i+1 < len(units):
			return fmt.Sprintf("%d%s%d%s", seconds/u.size, u.name, seconds%u.size/units[i+1].size, units[i+1].name)
		default:
			return fmt.Sprintf("%ds", seconds)
		}
	}
	return "0s"
}

func sessionCount(m node.MemberStatus) string {
	if m.Sessions == nil {
		return "-"
	}
	return strconv.Itoa(*m.Sessions)
}

// linkState says what the asked node thinks of its link to a member.
func linkState(status node.ClusterStatus, member string) string {
	for _, l := range status.Links {
		switch {
		case l.Node != member:
		case !l.Up && l.HeardMS < 0:
			return "never heard"
		case !l.Up:
			return fmt.Sprintf("silent %.1fs", float64(l.HeardMS)/1000)
		case l.Draining:
			return "draining"
		case l.Doubted:
			return "doubted"
		default:
			return "up"
		}
	}
	return "-" // the node itself, or one that owns nothing
}

// clockState says how far a member's clock is from the database's.
func clockState(m node.MemberStatus) string {
	if m.ClockMS == 0 {
		return "ok"
	}
	return fmt.Sprintf("%+.1fs", float64(m.ClockMS)/1000)
}

func ownerCommand() *cobra.Command {
	var node urlFlag
	cmd := &cobra.Command{
		Use:     "owner AGGREGATE",
		Short:   "Show which member owns an aggregate.",
		Long:    "Show which member owns an aggregate, such as auction/42.",
		Example: `  ganglion owner auction/42 --url http://n1:8080`,
		RunE:    func(cmd *cobra.Command, args []string) error { return showOwner(cmd.Context(), node, args[0]) },
	}
	f := cmd.Flags()
	node.addTo(f)
	fromEnvironment(f)
	return cmd
}

func showOwner(ctx context.Context, node urlFlag, aggregate string) error {
	if _, err := eventstore.ParseStreamID(aggregate); err != nil {
		return usageError{err}
	}
	status, err := node.cluster(ctx, "?aggregate="+url.QueryEscape(aggregate))
	if err != nil {
		return err
	}
	if status.Owner == nil || status.Owner.Member == "" {
		return errors.New("nobody owns it: no domain node is ready")
	}
	fmt.Println(status.Owner.Member)
	return nil
}

type verifyCmd struct {
	storeFlags
	JSON bool
}

func verifyCommand(l *logging) *cobra.Command {
	var c verifyCmd
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Audit a log: positions, versions, keys.",
		Long:  "Audit a log: positions, versions, keys. May run beside nodes, also beside the process that has an embedded log open.\nEnds with 3 if the log is damaged, and with 1 if it could not be looked at, such as when the database is away.",
		Example: `  ganglion verify --store postgres://ganglion@db/ganglion
  ganglion verify --store ./ganglion-data --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), l.logger()) },
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.JSON, "json", false, "Print the report as JSON.")
	return cmd
}

func (c verifyCmd) run(ctx context.Context, log *slog.Logger) error {
	store, err := c.openToRead(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	p := newProgress("verify", "positions")
	report, err := verify.LogWith(ctx, store, verify.Options{Progress: func(check verify.Check, at, head eventstore.Position) {
		if check == verify.Rows {
			p.set(int64(at), int64(head))
			return
		}
		p.step("verify " + string(check))
	}})
	p.end()
	if err != nil {
		return unfinished(ctx, err, "nothing can be said of the log")
	}
	if c.JSON {
		report.Faults = append([]verify.Fault{}, report.Faults...) // [] and not null
		err = printJSON(report)
	} else {
		printReport(report)
	}
	if err != nil || len(report.Faults) == 0 {
		return err
	}
	return damagedError{fmt.Errorf("the log is damaged, first at position %d", report.Faults[0].Position)}
}

// damagedError is a log in which verify found faults.
type damagedError struct{ error }

func printReport(r verify.Report) {
	fmt.Printf("log %s: %d events in %d commits of %d streams, up to position %d\n", r.LogID, r.Events, r.Commits, r.Streams, r.Head)
	if len(r.Faults) == 0 {
		fmt.Println("no fault found")
	}
	for _, fault := range r.Faults {
		fmt.Println(fault)
	}
}

func logCommand(l *logging) *cobra.Command {
	cmd := &cobra.Command{Use: "log COMMAND", Short: "Repair what only an operator may decide."}
	cmd.AddCommand(acceptLossCommand(l))
	return cmd
}

type acceptLossCmd struct {
	storeFlags
	Yes bool
}

func acceptLossCommand(l *logging) *cobra.Command {
	var c acceptLossCmd
	cmd := &cobra.Command{
		Use:   "accept-loss",
		Short: "Accept that a restored log lost its newest events: nodes serve it again, clients that saw more are told.",
		Long: "Accept that a restored log lost its newest events: nodes serve it again, clients that saw more are told.\n" +
			"First restore what can be restored: what is accepted as lost does not come back.\n" +
			"The command says what it will do and asks for confirmation.",
		Example: `  ganglion log accept-loss --store postgres://ganglion@db/ganglion`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(cmd.Context(), cmd.InOrStdin(), l.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.Yes, "yes", false, "Accept the loss without asking for confirmation.")
	return cmd
}

func (c acceptLossCmd) run(ctx context.Context, in io.Reader, log *slog.Logger) error {
	store, err := c.open(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	head, err := store.Head(ctx)
	if err != nil {
		return err
	}
	newest, err := newestCommit(ctx, store, head)
	if err != nil {
		return err
	}
	old := store.LogID()
	fmt.Fprint(os.Stderr, lossNotice(old, head, newest))
	if !c.Yes {
		if err := confirm(in, os.Stderr); err != nil {
			return err
		}
	}
	id, err := store.AcceptLoss(ctx)
	if err != nil {
		return err
	}
	if head, err = store.Head(ctx); err != nil {
		return err
	}
	fmt.Printf("The log ends at position %d now, and is log %s (it was %s).\n", head, id, old)
	return nil
}

// newestCommit returns when the last commit of a log was stored, the zero time
// if the log is empty.
func newestCommit(ctx context.Context, store node.Store, head eventstore.Position) (time.Time, error) {
	if head == 0 {
		return time.Time{}, nil
	}
	commits, err := store.Read(ctx, head-1, 1)
	if err != nil || len(commits) == 0 {
		return time.Time{}, err
	}
	return commits[0].At, nil
}

// lossNotice says what accepting a loss does.
func lossNotice(log string, head eventstore.Position, newest time.Time) string {
	ends := "is empty"
	if head > 0 {
		ends = fmt.Sprintf("ends at position %d, stored at %s", head, newest.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf(`The log %s %s.
Accepting a loss is right only after a restore, or the promotion of a standby, that lost events. It does this:
- Events after position %d are given up. A better backup can't bring them back afterwards.
- The log gets a new id. Nodes serve it as it is, within a second or two.
- Each client with a cursor of the log %s is told "cursor_ahead" and starts again, also a client that missed nothing.
`, log, ends, head, log)
}

// confirm asks for a yes. Without one nothing may be changed. It asks only a
// terminal: a script has to give --yes.
func confirm(in io.Reader, out io.Writer) error {
	if file, ok := in.(*os.File); ok && !term.IsTerminal(int(file.Fd())) {
		return usagef("nothing was changed: standard input is no terminal, so nobody can confirm; give --yes to accept the loss")
	}
	fmt.Fprint(out, "Accept the loss? Type yes: ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return errors.New("nothing was changed: the answer was not yes")
	}
	return nil
}

// sentence is an error as a person reads it: one line, without the names of
// packages that wrapped it.
func sentence(err error) string {
	var text string
	for line := range strings.Lines(err.Error()) {
		line = strings.Join(strings.Fields(line), " ")
		switch {
		case text == "", line == "":
		case strings.HasSuffix(text, ":"): // what follows belongs to it
			text += " "
		default:
			text += "; "
		}
		text += line
	}
	for _, prefix := range []string{"ganglion: ", "eventstore: ", "postgres: ", "sqlite: ", "gateway: ", "cluster: ", "token: ", "transfer: ", "import: ", "export: "} {
		text = strings.TrimPrefix(text, prefix)
		for _, before := range []string{": ", "; ", "("} { // and not "this cluster: "
			text = strings.ReplaceAll(text, before+prefix, before)
		}
	}
	return text
}
