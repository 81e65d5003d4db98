package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// How long requests under way may take once we are told to end.
const grace = 2 * time.Second

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

type settings struct {
	data, audit, tokens, nodePorts string
	port                           int
	extra                          []string
}

func apiserverCommand() *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use:          "apiserver --data-dir DIR --port PORT [-- KUBE-APISERVER-ARGUMENT...]",
		Short:        "Run kube-apiserver with etcd inside until SIGTERM or the end of standard input",
		SilenceUsage: true,
		RunE: func(_ *cobra.Command, extra []string) error {
			s.extra = extra
			return run(s)
		},
	}
	flags := command.Flags()
	flags.StringVar(&s.data, "data-dir", "", "folder for etcd, keys and the kubeconfig; kept between runs")
	flags.IntVar(&s.port, "port", 0, "port on 127.0.0.1")
	flags.StringVar(&s.audit, "audit-log", "", "file for the audit log (level Metadata)")
	flags.StringVar(&s.tokens, "tokens", "", "CSV file of further tokens: token,user,uid,\"group1,group2\"")
	flags.StringVar(&s.nodePorts, "service-node-port-range", "30000-32767", "range of node ports")
	return command
}

func run(s settings) error {
	if s.data == "" || s.port == 0 {
		return errors.New("--data-dir and --port are needed")
	}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return err
	}
	etcd, err := startEtcd(s)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer etcd.Close()
	token, err := adminToken(filepath.Join(s.data, "admin.token"))
	if err != nil {
		return err
	}
	arguments, err := prepare(s, etcd.Clients[0].Addr().String(), token)
	if err != nil {
		return err
	}
	ctx, stop := untilTold()
	defer stop()
	go announce(ctx, s, token)
	command := apiserver.NewAPIServerCommand()
	command.SetArgs(append(arguments, s.extra...))
	err = command.ExecuteContext(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// untilTold ends with SIGTERM, SIGINT, or when whoever started us closes our standard input (or dies).
func untilTold() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		// kube-apiserver installs its own handler, so it is told in its own language.
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
	}()
	go func() {
		<-ctx.Done()
		// Every open watch would hold kube-apiserver for a minute. All that was answered is in etcd's files by now.
		time.Sleep(grace)
		os.Exit(0)
	}()
	return ctx, stop
}

// adminToken is the token of a member of system:masters: made once, kept in the file.
func adminToken(path string) (string, error) {
	if kept, err := os.ReadFile(path); !errors.Is(err, os.ErrNotExist) {
		return string(kept), err
	}
	token := rand.Text()
	return token, os.WriteFile(path, []byte(token), 0o600)
}

// startEtcd without fsync: the data need not outlive a power cut, and tests should not wait for a disk.
func startEtcd(s settings) (*embed.Etcd, error) {
	c := embed.NewConfig()
	c.Dir = filepath.Join(s.data, "etcd")
	c.LogLevel = "error"
	c.UnsafeNoFsync = true
	anyPort, _ := url.Parse("http://127.0.0.1:0")
	c.ListenClientUrls = []url.URL{*anyPort}
	c.ListenPeerUrls = []url.URL{*anyPort}
	// Nobody is told where it is: kube-apiserver gets the port that it really listens on.
	c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	// Peers are never spoken to, but a member must say the same of itself at every start.
	peer, _ := url.Parse("http://127.0.0.1:2380")
	c.AdvertisePeerUrls = []url.URL{*peer}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case err := <-etcd.Err():
		return nil, err
	case <-time.After(60 * time.Second):
		etcd.Close()
		return nil, errors.New("not ready after 60 s")
	}
}

// prepare writes keys, tokens and the audit policy, and says kube-apiserver's arguments.
func prepare(s settings, etcd, token string) ([]string, error) {
	key, tokens := filepath.Join(s.data, "service-accounts.key"), filepath.Join(s.data, "tokens.csv")
	policy := filepath.Join(s.data, "audit-policy.yaml")
	if err := errors.Join(writeKey(key), writeTokens(tokens, token, s.tokens), os.WriteFile(policy, []byte(auditPolicy), 0o600)); err != nil {
		return nil, err
	}
	arguments := []string{
		"--etcd-servers=http://" + etcd,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(s.port),
		"--cert-dir=" + filepath.Join(s.data, "certificates"),
		"--authorization-mode=RBAC",
		"--token-auth-file=" + tokens,
		"--service-account-issuer=https://controlplane.test",
		"--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key,
		"--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
		"--service-node-port-range=" + s.nodePorts,
		// No controller makes the default service accounts that Pods would need.
		"--disable-admission-plugins=ServiceAccount",
		"--endpoint-reconciler-type=none",
	}
	if s.audit != "" {
		arguments = append(arguments, "--audit-policy-file="+policy, "--audit-log-path="+s.audit,
			// In megabytes. The default is to rotate at 100, and then a count over the file would be short.
			"--audit-log-maxsize=1000000")
	}
	return arguments, nil
}

func writeKey(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600)
}

func writeTokens(path, token, more string) error {
	content := []byte(token + ",admin,admin,\"system:masters\"\n")
	if more != "" {
		raw, err := os.ReadFile(more)
		if err != nil {
			return err
		}
		content = append(content, raw...)
	}
	return os.WriteFile(path, content, 0o600)
}

// announce writes the kubeconfig and says that we are ready, as soon as that is so.
func announce(ctx context.Context, s settings, token string) {
	server := "https://127.0.0.1:" + strconv.Itoa(s.port)
	// The certificate is not known before the server has made it; nothing but this loopback port is asked.
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for ctx.Err() == nil && !isReady(client, server, token) {
		time.Sleep(50 * time.Millisecond)
	}
	if ctx.Err() != nil {
		return
	}
	if err := writeKubeconfig(s, server, token); err != nil {
		fmt.Fprintln(os.Stderr, "kubeconfig:", err)
		return
	}
	fmt.Println("ready", server)
}

func isReady(client http.Client, server, token string) bool {
	request, _ := http.NewRequest(http.MethodGet, server+"/readyz", nil)
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := client.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func writeKubeconfig(s settings, server, token string) error {
	ca, err := os.ReadFile(filepath.Join(s.data, "certificates", "apiserver.crt"))
	if err != nil {
		return err
	}
	content := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: controlplane
clusters: [{name: controlplane, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: admin, user: {token: %q}}]
contexts: [{name: controlplane, context: {cluster: controlplane, user: admin}}]
`, server, base64.StdEncoding.EncodeToString(ca), token)
	return os.WriteFile(filepath.Join(s.data, "kubeconfig"), []byte(content), 0o600)
}
